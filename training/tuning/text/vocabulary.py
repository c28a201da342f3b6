"""Embeddings in full training: the rows of tokens that the data holds, and no others.

Most of an encoder's weights are embeddings of tokens that no text of a project has. Such a row's gradient is
zero, and without weight decay so is every update of it; yet the gradient, its norm and the optimizer's state
would be as long as the vocabulary at every step. What is learnt is the same.
"""

from collections.abc import Iterable
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from training.tuning.config import TrainConfig
from training.tuning.text.models import TextModel
from training.tuning.text.tokens import EncodedGroup

# Those by which a row whose gradient is always zero stays as it is; Adafactor scales by whole tensors.
LEAVE_UNREAD: Final = ("adamw", "rmsprop", "sgd")
WORTH_IT: Final = 0.5  # share of the vocabulary; of more there is little to save


class ReadRows(nn.Module):
    """An embedding of some tokens. ``weight`` (K, H) is trained; ``whole`` keeps all rows, on the CPU."""

    place: Tensor

    def __init__(self, whole: nn.Embedding, tokens: Int[Tensor, " K"]) -> None:
        super().__init__()
        device = whole.weight.device
        self.weight = nn.Parameter(whole.weight.detach()[tokens.to(device)])
        place = torch.full((whole.num_embeddings,), -1, dtype=torch.long)
        place[tokens] = torch.arange(len(tokens))
        padding = None if whole.padding_idx is None else int(place[whole.padding_idx])
        self.padding_idx = None if padding == -1 else padding
        self.register_buffer("place", place.to(device), persistent=False)
        self.tokens = tokens
        self._whole = [whole.cpu()]  # in a list, so that it is no part of the model

    def forward(self, input_ids: Int[Tensor, "..."]) -> Float[Tensor, "... H"]:
        """The rows of tokens; IndexError for one that is not among them."""
        return F.embedding(self.place[input_ids], self.weight, padding_idx=self.padding_idx)

    @torch.no_grad()
    def whole(self) -> nn.Embedding:
        """All rows, with those that were trained."""
        (whole,) = self._whole
        whole.weight[self.tokens] = self.weight.cpu()
        return whole.to(self.weight.device)


def tokens_of(groups: Iterable[EncodedGroup]) -> set[int]:
    """The tokens that occur."""
    return {token for group in groups for part in (group.prefix, *group.blocks) for token in part}


def narrow(model: TextModel, tokens: set[int], config: TrainConfig) -> None:
    """Let a model that is trained in full hold the embeddings of these tokens alone, the only ones that it
    will read. Where that would change what is learnt, or saves little, it stays as it is."""
    embeddings = model.inner.get_input_embeddings()
    plain = type(embeddings) is nn.Embedding and embeddings.max_norm is None
    alone = model.inner.get_output_embeddings() is None and model.whole is None
    leaves = config.optimizer in LEAVE_UNREAD and config.weight_decay == 0
    if not (plain and alone and leaves and embeddings.weight.requires_grad):
        return
    if len(tokens) <= WORTH_IT * embeddings.num_embeddings:
        model.inner.set_input_embeddings(ReadRows(embeddings, torch.tensor(sorted(tokens))))


def widen(model: TextModel) -> None:
    """Give the model all its embeddings back."""
    embeddings = model.inner.get_input_embeddings()
    if isinstance(embeddings, ReadRows):
        model.inner.set_input_embeddings(embeddings.whole())
