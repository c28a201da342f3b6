"""Losses that bring log-ratios to given scores: one value per answer or pair; the caller reduces."""

import torch
from jaxtyping import Float
from torch import Tensor


def uft_loss(
    log_ratio: Float[Tensor, " B"], score: Float[Tensor, " B"], *, beta: float
) -> Float[Tensor, " B"]:
    """(σ(βr) − s)² with s in 0..1, 1 of demonstrations: UFT, arXiv:2410.21438 (on UNA, arXiv:2408.15339)."""
    return (torch.sigmoid(beta * log_ratio) - score) ** 2


def copg_loss(
    log_ratio: Float[Tensor, " B"],
    other_log_ratio: Float[Tensor, " B"],
    score: Float[Tensor, " B"],
    other_score: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    """½ (R_β(y) − R_β(y'))², R_β(y) = R(y) − β log π(y) / π_ref(y): contrastive policy gradient,
    arXiv:2406.19185. Answers may come from anywhere; 0 exactly where π ∝ π_ref exp(R / β).
    """
    return 0.5 * ((score - other_score) - beta * (log_ratio - other_log_ratio)) ** 2
