"""Rewards that differ between people: ideal points, and mixtures of rewards."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def distance(points: Float[Tensor, "B D"], ideal: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
    """‖f(y) − u‖ (B,): not squared. The gradient where both are the same is 0."""
    squared = (points - ideal).square().sum(dim=1)
    safe = squared.clamp(min=torch.finfo(squared.dtype).tiny)
    return torch.where(squared > 0, safe.sqrt(), torch.zeros_like(squared))


def ideal_point_loss(
    chosen: Float[Tensor, "B D"], rejected: Float[Tensor, "B D"], ideal: Float[Tensor, "B D"]
) -> Float[Tensor, " B"]:
    """max(0, 1 − (‖f(y_l) − u‖ − ‖f(y_w) − u‖)): PAL's model A (arXiv:2406.08469), with its hinge.

    ``ideal``: u of whoever chose, (B, D). Returns (B,); the caller reduces.
    """
    return F.relu(1 - (distance(rejected, ideal) - distance(chosen, ideal)))


def mixture_loss(
    margins: Float[Tensor, "B K"], router: Float[Tensor, "B K"], *, entropy: float
) -> Float[Tensor, " B"]:
    """−log Σ_k f_k(x) σ(Δr_k) + α Σ_k f_k ln f_k, f = softmax(router): MiCRo (arXiv:2505.24846).

    ``margins``: r_k(y_w) − r_k(y_l). ``entropy`` is α, which pulls f towards uniform. Returns (B,).
    """
    log_f = router.log_softmax(dim=1)
    likelihood = (log_f + F.logsigmoid(margins)).logsumexp(dim=1)
    return -likelihood + entropy * (log_f.exp() * log_f).sum(dim=1)


def hedge_loss(
    margins: Float[Tensor, "B K"], router: Float[Tensor, "B K"], *, temperature: float
) -> Float[Tensor, " B"]:
    """Cross-entropy of the router to ω_k ∝ f_k exp(−L_k / τ), L_k = −log σ(Δr_k): MiCRo's second stage.

    No gradient goes into ω or through the margins: the heads stay as they are. Returns (B,).
    """
    log_f = router.log_softmax(dim=1)
    target = hedge_weights(margins, router, temperature=temperature)
    return -(target * log_f).sum(dim=1)


@torch.no_grad()
def hedge_weights(
    margins: Float[Tensor, "B K"], router: Float[Tensor, "B K"], *, temperature: float
) -> Float[Tensor, "B K"]:
    """ω (B, K): what the router's weights become once a pair's losses by each head are known."""
    return (router.log_softmax(dim=1) + F.logsigmoid(margins) / temperature).softmax(dim=1)
