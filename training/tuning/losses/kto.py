"""Losses on single answers that were called good or bad: KTO and unpaired APO.

All take the log-ratios of policy to reference (B,), summed over tokens, and return (B,); the caller weights
and reduces.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def kto_good_loss(
    log_ratio: Float[Tensor, " B"], *, beta: float, kl: Float[Tensor, ""] | float
) -> Float[Tensor, " B"]:
    """1 − σ(β(r − z₀)) of desirable answers: Eq. 8 of arXiv:2402.01306, before its weight λ_D.

    ``kl`` is z₀: the mean log-ratio of answers to other prompts, at least 0, without a gradient.
    """
    return torch.sigmoid(-beta * (log_ratio - kl))


def kto_bad_loss(
    log_ratio: Float[Tensor, " B"], *, beta: float, kl: Float[Tensor, ""] | float
) -> Float[Tensor, " B"]:
    """1 − σ(β(z₀ − r)) of undesirable answers: Eq. 8 of arXiv:2402.01306, before its weight λ_U."""
    return torch.sigmoid(beta * (log_ratio - kl))


def apo_good_loss(log_ratio: Float[Tensor, " B"], *, beta: float) -> Float[Tensor, " B"]:
    """1 − σ(βr): the chosen half of APO-zero, Eq. 7 of arXiv:2408.06266."""
    return torch.sigmoid(-beta * log_ratio)


def apo_bad_loss(log_ratio: Float[Tensor, " B"], *, beta: float) -> Float[Tensor, " B"]:
    """σ(βr): the rejected half of APO-zero, Eq. 7 of arXiv:2408.06266."""
    return torch.sigmoid(beta * log_ratio)
