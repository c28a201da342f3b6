"""Learning from preferences that need not come from a reward: Nash-MD (Munos et al., arXiv:2312.00886)."""

import torch
from jaxtyping import Float
from torch import Tensor


def nash_advantages(
    wins: Float[Tensor, " B"], log_ratios: Float[Tensor, " B"], *, beta: float
) -> Float[Tensor, " B"]:
    """P(y ≻ y′) − ½ − β log π(y)/π_ref(y): what Nash-MD-PG multiplies ∇ log π(y) with (Section 7).

    Arguments, (B,): the probability that an answer of the policy is preferred to one of the mixture, and the
    policy's log-ratio of it, summed over tokens. Without a gradient.
    """
    return wins - 0.5 - beta * log_ratios.detach()


def win_probabilities(scores: Float[Tensor, "B 2"], *, are_probabilities: bool) -> Float[Tensor, " B"]:
    """P(first ≻ second) (B,): Bradley-Terry's of two rewards, or what scores say that are P and 1 − P."""
    gap = scores[:, 0] - scores[:, 1]
    return (1 + gap).div(2).clamp(0, 1) if are_probabilities else torch.sigmoid(gap)
