"""How much each token of an answer counts in the sums that pair losses read."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.pairs import Pair
from training.tuning.text.dataset import Example
from training.tuning.text.pairs import TokenWeights


def token_weights(config: Any) -> TokenWeights | None:
    """What the config asks for, as a function of a pair; None if all tokens count alike."""
    if config.ld_alpha is None or config.ld_alpha == 1:
        return None

    def weigh(example: Example, pair: Pair) -> tuple[Tensor, Tensor]:
        answers = example.tokens.answers
        lengths = len(answers[pair.chosen]), len(answers[pair.rejected])
        return tuple(length_weights(own, min(lengths), alpha=config.ld_alpha) for own in lengths)  # type: ignore[return-value]

    return weigh


def length_weights(length: int, shared: int, *, alpha: float) -> Float[Tensor, " T"]:
    """1 for the tokens that the other answer is long enough to have, alpha for those beyond:
    arXiv:2409.06411.
    """
    weights = torch.full((length,), alpha)
    weights[:shared] = 1
    return weights
