"""Reward models for people who differ: what stands beside the head, and what is learnt.

The head gives each answer several outputs; a taste makes one score of them, for somebody or under a prompt.
It is saved beside the reward model, as ``personal.safetensors``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.tuning.config import RewardModelConfig
from training.tuning.data import Group, Text
from training.tuning.errors import BadInput
from training.tuning.losses.personal import distance, hedge_loss, ideal_point_loss, mixture_loss
from training.tuning.pairs import Pair, make_pairs, why_no_pairs
from training.tuning.rewards.info import RewardInfo, Taste, read_info
from training.tuning.text.batches import GroupBatch
from training.tuning.text.dataset import Example, texts_of
from training.tuning.text.models import TextModel
from training.tuning.text.pairs import sides
from training.tuning.text.tokens import Unusable

FILE = "personal.safetensors"
ROUTER_WIDTH = 128


class IdealPoints(nn.Module):
    """A person likes what lies near their ideal point, which mixes K prototypes that all people share.

    u = f(Σ_k softmax(w)_k p_k), with f the reward model's head: prototypes are states. Somebody unknown gets
    the mean of everybody's shares. (PAL, arXiv:2406.08469, model A.)
    """

    def __init__(self, taste: Taste, width: int) -> None:
        super().__init__()
        self.users = {name: number for number, name in enumerate(taste.users)}
        self.prototypes = nn.Parameter(torch.randn(taste.count, width))
        self.weights = nn.Parameter(torch.zeros(len(taste.users), taste.count))

    def read(self, model: TextModel, batch: GroupBatch) -> Tensor:
        """f(y) of every candidate (N, D)."""
        return model.outputs(batch)

    def ideals(self, model: TextModel, users: Sequence[str | None]) -> Tensor:
        """u of each of ``users``, (B, D)."""
        shares = self.weights.softmax(dim=1)
        rows = [shares[self.users[one]] if one in self.users else shares.mean(dim=0) for one in users]
        return model.score_head(torch.stack(rows) @ self.prototypes)

    def scores(self, model: TextModel, outputs: Tensor, users: Sequence[str | None]) -> Tensor:
        """−‖f(y) − u‖ (N,)."""
        return -distance(outputs, self.ideals(model, users))


class Mixture(nn.Module):
    """K rewards, and a router that says from the prompt how much each of them counts. (MiCRo,
    arXiv:2505.24846.)
    """

    def __init__(self, taste: Taste, width: int) -> None:
        super().__init__()
        self.router = nn.Sequential(
            nn.Linear(width, ROUTER_WIDTH), nn.ReLU(), nn.Linear(ROUTER_WIDTH, taste.count)
        )

    def read(self, model: TextModel, batch: GroupBatch) -> Tensor:
        """The K rewards of every candidate, and its prompt's K logits of the router (N, 2 K)."""
        states = model.states(batch)
        ends = [segment.start + segment.prefix - 1 for segment in batch.layout.segments]
        prompts, answers = states[ends], states.index_select(0, batch.last)
        rewards = model.score_head(answers.to(torch.promote_types(answers.dtype, torch.float32)))
        counts = torch.tensor(batch.sizes, device=states.device)
        logits = self.router(prompts.to(rewards.dtype))
        return torch.cat([rewards, logits.repeat_interleave(counts, dim=0)], dim=1)

    def scores(self, model: TextModel, outputs: Tensor, users: Sequence[str | None]) -> Tensor:
        """Σ_k f_k(x) r_k (N,), whoever asks."""
        rewards, logits = outputs.chunk(2, dim=1)
        return (logits.softmax(dim=1) * rewards).sum(dim=1)


TASTES: dict[str, type[IdealPoints] | type[Mixture]] = {"ideal_point": IdealPoints, "mixture": Mixture}


class PersonalObjective:
    """Pairs, each with who chose: the losses ``ideal_point`` and ``mixture``."""

    def __init__(self, config: RewardModelConfig, groups: Sequence[Group]) -> None:
        self.config = config
        self.outputs = config.dimensions if config.loss == "ideal_point" else config.prototypes
        users = {pair.annotator or "" for group in groups for pair in self._pairs(group)}
        named = sorted(users) if config.loss == "ideal_point" else []
        self.taste = Taste(kind=config.loss, count=config.prototypes, users=named)
        self.link: Any = None
        self.model: Any = None

    def attach(self, model: TextModel) -> None:
        """Make what stands beside the head, or, to fit it alone, take what the base has; freeze the rest."""
        if self.config.loss == "mixture" and model.layout != "shared":
            raise BadInput("the loss mixture needs prompts that answers share: a decoder", file=model.base)
        self.model = model
        if self.config.fit == "all":
            self.link = TASTES[self.taste.kind](self.taste, width_of(model))
            return
        info = read_info(model.base)
        if info is None or info.taste is None or info.taste.kind != self.config.loss:
            raise BadInput(f'fit "people" needs a base of the loss {self.config.loss}', file=model.base)
        if info.taste.count != self.taste.count:
            raise BadInput(
                f"the base has {info.taste.count} prototypes, and the config {self.taste.count}",
                field="config.prototypes",
            )
        self.link = TASTES[self.taste.kind](self.taste, width_of(model))
        known = load_file(Path(model.base) / FILE)
        known.pop("weights", None)  # of other people
        self.link.load_state_dict(known, strict=False)
        model.model.requires_grad_(False)
        for name, value in self.link.named_parameters():
            value.requires_grad_(name != "prototypes")

    def choose(self, group: Group) -> tuple[list[Text], list[Pair]]:
        """All candidates, and a pair for each person's choices."""
        pairs = self._pairs(group)
        if not pairs:
            raise Unusable(why_no_pairs(group))
        return texts_of(group), pairs

    def weights(self, example: Example) -> list[float]:
        """Of the pairs."""
        return [pair.weight for pair in example.pairs]

    def losses(self, outputs: Tensor, examples: Sequence[Example]) -> Tensor:
        """(B, 1): of every pair."""
        chosen, rejected = sides(outputs, examples)
        pairs = [pair for example in examples for pair in example.pairs]
        target = outputs.new_tensor([pair.target for pair in pairs])
        if self.config.loss == "ideal_point":
            ideal = self.link.ideals(self.model, [pair.annotator or "" for pair in pairs])
            forward, back = (
                ideal_point_loss(chosen, rejected, ideal),
                ideal_point_loss(rejected, chosen, ideal),
            )
        else:
            margins, router = (chosen - rejected).chunk(2, dim=1)[0], chosen.chunk(2, dim=1)[1]
            forward, back = (self._routed(sign * margins, router) for sign in (1, -1))
        return (target * forward + (1 - target) * back)[:, None]

    def _routed(self, margins: Tensor, router: Tensor) -> Tensor:
        if self.config.fit == "people":
            return hedge_loss(margins, router, temperature=self.config.router_temperature)
        return mixture_loss(margins, router, entropy=self.config.router_entropy)

    def pair_scores(self, outputs: Tensor, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Scores (B,) of both sides of the pairs, by the taste of whoever chose."""
        users = [pair.annotator or "" for example in examples for pair in example.pairs]
        chosen, rejected = (self.link.scores(self.model, one, users) for one in sides(outputs, examples))
        return chosen, rejected

    def _pairs(self, group: Group) -> list[Pair]:
        return make_pairs(group, self.config, apart=("annotator",))


def width_of(model: TextModel) -> int:
    """The numbers of a state."""
    return int(model.inner.config.get_text_config().hidden_size)


def save_taste(folder: Path, link: nn.Module) -> None:
    """Write what stands beside the head."""
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in link.state_dict().items()}, folder / FILE
    )


def load_taste(info: RewardInfo, model: TextModel) -> IdealPoints | Mixture:
    """What stands beside a reward model's head."""
    assert info.taste is not None
    link = TASTES[info.taste.kind](info.taste, width_of(model))
    link.load_state_dict(load_file(Path(model.base) / FILE))
    return link.requires_grad_(False).to(model.device)
