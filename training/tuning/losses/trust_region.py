"""TROLL: every token's distribution projected into a KL ball around the one that sampled it.

arXiv:2510.03817. In place of clipping: minimise KL(p_hat || p) subject to KL(p_hat || p_old) <= bound. The
solution is log p_hat = (eta log p_old + log p) / (eta + 1) - log Z; eta is found by bisection and, where the
bound already holds, is zero.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def project(
    logp: Float[Tensor, "C V"], old: Float[Tensor, "C V"], *, bound: float, steps: int = 60
) -> tuple[Float[Tensor, "C V"], Float[Tensor, " C"]]:
    """(log p_hat, eta), with gradients through both ``logp`` and, implicitly, eta."""
    with torch.no_grad():
        eta = _solve(logp, old, bound=bound, steps=steps)
    eta = _Multiplier.apply(logp, old, eta, bound)
    return interpolate(logp, old, eta), eta


def interpolate(
    logp: Float[Tensor, "C V"], old: Float[Tensor, "C V"], eta: Float[Tensor, " C"]
) -> Float[Tensor, "C V"]:
    """The geometric mean of both, ``eta`` parts old and one part new, normalised."""
    mixed = (eta[:, None] * old + logp) / (eta[:, None] + 1)
    return torch.log_softmax(mixed, dim=1)


def kl(logp: Float[Tensor, "C V"], logq: Float[Tensor, "C V"]) -> Float[Tensor, " C"]:
    """KL(p || q), token by token."""
    return (logp.exp() * (logp - logq)).sum(dim=1)


def trust_region_loss(
    logp: Float[Tensor, "C V"],
    old: Float[Tensor, "C V"],
    taken: Int[Tensor, " C"],
    advantages: Float[Tensor, " C"],
    *,
    bound: float,
    alpha: float = 1.0,
) -> Float[Tensor, " C"]:
    """-p_hat / p_old A + alpha KL(p || sg p_hat) of each token.

    ``taken`` holds the column of the sampled token. The second term pulls the policy to it.
    """
    projected, _ = project(logp, old, bound=bound)
    rows = torch.arange(len(taken), device=logp.device)
    ratio = torch.exp(projected[rows, taken] - old[rows, taken])
    return -ratio * advantages + alpha * kl(logp, projected.detach())


def _solve(logp: Tensor, old: Tensor, *, bound: float, steps: int) -> Tensor:
    """The smallest eta >= 0 with KL(p_hat || p_old) <= bound, in float64."""
    logp, old = logp.double(), old.double()
    low = torch.zeros(len(logp), dtype=torch.float64, device=logp.device)
    outside = kl(logp, old) > bound
    high = torch.ones_like(low)
    while bool((kl(interpolate(logp, old, high), old)[outside] > bound).any()):
        high *= 2
    for _ in range(steps):
        middle = (low + high) / 2
        over = kl(interpolate(logp, old, middle), old) > bound
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return torch.where(outside, high, torch.zeros_like(high))


class _Multiplier(torch.autograd.Function):
    """eta as a function of log p, by the implicit function theorem on KL(p_hat(eta, p) || p_old) = bound."""

    @staticmethod
    def forward(ctx: Any, logp: Tensor, old: Tensor, eta: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(logp, old, eta)
        return eta.to(logp.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logp, old, eta = ctx.saved_tensors
        with torch.enable_grad():
            wide = logp.detach().double().requires_grad_()
            free = eta.detach().clone().requires_grad_()
            gap = kl(interpolate(wide, old.double(), free), old.double())
            by_logp, by_eta = torch.autograd.grad(gap.sum(), (wide, free))
        active = (eta > 0) & (by_eta.abs() > 1e-12)
        slope = torch.where(active, -grads[0].double() / by_eta, torch.zeros_like(by_eta))
        return (slope[:, None] * by_logp).to(logp.dtype), None, None, None
