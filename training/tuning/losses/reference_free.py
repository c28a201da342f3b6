"""Losses on pairs of log-probabilities, without a reference model.

All take two tensors (B,): log π(y|x) of the chosen and of the rejected answer, as a sum over tokens or as the
mean per token (each says which). All return (B,); the caller weights and reduces.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def orpo_loss(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], *, beta: float
) -> Float[Tensor, " B"]:
    """−log p_w − β log σ(log odds_w − log odds_l), odds = p / (1 − p): Eq. 6 and 7 of arXiv:2403.07691.

    Means per token; log p is their value, as in the paper's Eq. 1, and β its λ.
    """
    return -chosen - beta * F.logsigmoid(log_odds(chosen) - log_odds(rejected))


def log_odds(log_p: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """log(p / (1 − p)) from log p. A certain answer counts as p = 1 − 1e-7."""
    log_p = log_p.clamp(max=-1e-7)
    return log_p - torch.log(-torch.expm1(log_p))


def simpo_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    *,
    beta: float,
    gamma: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " B"]:
    """−(1 − ε) log σ(z) − ε log σ(−z), z = β(ℓ_w − ℓ_l) − γ: Eq. 6 of arXiv:2405.14734. Means per token."""
    z = beta * (chosen - rejected) - gamma
    return -(1 - label_smoothing) * F.logsigmoid(z) - label_smoothing * F.logsigmoid(-z)


def alphapo_reward(log_p: Float[Tensor, " B"], *, alpha: float) -> Float[Tensor, " B"]:
    """(1 − p^{−α}) / α of arXiv:2501.03884, which takes log p's place in SimPO; α → 0 is log p."""
    if alpha == 0:
        return log_p
    return -torch.expm1(-alpha * log_p) / alpha


def cpo_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " B"]:
    """−(1 − ε) log σ(z) − ε log σ(−z), z = β(ℓ_w − ℓ_l): Eq. 3 of arXiv:2401.08417. Sums over tokens."""
    z = beta * (chosen - rejected)
    return -(1 - label_smoothing) * F.logsigmoid(z) - label_smoothing * F.logsigmoid(-z)


def redi_loss(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], *, alpha: float
) -> Float[Tensor, " B"]:
    """−ℓ_w + α ℓ_l: the second stage of REDI, arXiv:2505.24850. Means per token.

    Not bounded below: watch the rejected answers' log-probabilities.
    """
    return -chosen + alpha * rejected
