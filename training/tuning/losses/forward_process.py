"""Learning from rewards on the forward process: finished pictures are noised again, no chain is needed.

``policy``, ``old`` and ``target`` (N, …) are predictions and what is to be predicted (velocity, noise, …), at
the same noisy pictures. ``scale`` (N,) turns errors of predictions into those of the clean picture x̂_0; see
``clean_scale`` in ``images/forward.py``.
"""

from jaxtyping import Float
from torch import Tensor

SMALLEST = 1e-5  # of what errors are divided by
Predictions = Float[Tensor, "N *D"]


def optimality(advantages: Float[Tensor, " *N"], *, limit: float = 5.0) -> Float[Tensor, " *N"]:
    """½ + ½ clip(A / limit, ±1): how good a picture is, 0 to 1 (arXiv:2509.16117)."""
    return 0.5 + 0.5 * (advantages / limit).clamp(-1, 1)


def diffusion_nft_loss(
    policy: Predictions,
    old: Predictions,
    target: Predictions,
    optimal: Float[Tensor, " N"],
    *,
    beta: float,
    scale: Float[Tensor, " N"] | None = None,
) -> Float[Tensor, " N"]:
    """r ‖v⁺ - v‖² + (1 - r) ‖v⁻ - v‖² with v^± = v_old ± β (v_θ - v_old): DiffusionNFT, arXiv:2509.16117.

    ``optimal`` is r (N,), from ``optimality``. The optimum is v_old + (2/β) Cov(r, v | x_t). With ``scale``
    errors are those of x̂_0, each divided by its own mean size, as in the authors' code. Returns (N,).
    """
    away = beta * (policy - old)
    positive = sized_error(old + away, target, scale)
    negative = sized_error(old - away, target, scale)
    return optimal * positive + (1 - optimal) * negative


def centred_reward_loss(
    implicit: Float[Tensor, " N"],
    optimal: Float[Tensor, " N"],
    *,
    mean_implicit: Float[Tensor, " N"],
    mean_optimal: Float[Tensor, " N"],
    beta: float,
) -> Float[Tensor, " N"]:
    """(β (R - R̄) - (A - Ā))²: centred reward distillation (CRD), in the form of Flow-Factory's crd.py.

    ``implicit`` is R = ‖v_old - v‖² - ‖v_θ - v‖², by how much the policy denoises a picture better than the
    old one: at one x_t of a flow its slope in x_0 is -2 (v_θ - v_old) / t. ``optimal`` is A. The means are
    those of a picture's prompt, without a gradient: so log Z cancels, and a constant added to all rewards
    changes nothing. Returns (N,).
    """
    return (beta * (implicit - mean_implicit.detach()) - (optimal - mean_optimal)).square()


def adaptive_anchor(
    optimal: Float[Tensor, " N"], *, weight: float, least: float = 1e-4
) -> Float[Tensor, " N"]:
    """κ (m + A (1 - m)) with m = least / κ: what the distance to the reference weighs in CRD, more for better
    pictures. Returns (N,).
    """
    floor = least / weight
    return weight * (floor + optimal * (1 - floor))


def mean_square(difference: Predictions) -> Float[Tensor, " N"]:
    """The mean square over a picture's numbers, (N,)."""
    return difference.square().flatten(1).mean(dim=1)


def sized_error(
    prediction: Predictions, target: Predictions, scale: Float[Tensor, " N"] | None
) -> Float[Tensor, " N"]:
    """Mean squared error (N,); with ``scale`` that of x̂_0 over its own mean size, which has no gradient."""
    error = mean_square(prediction - target)
    if scale is None:
        return error
    size = (prediction - target).detach().double().abs().flatten(1).mean(dim=1) * scale
    return error * scale.square() / size.clamp(min=SMALLEST).to(error.dtype)


def kept_share(step: int, *, start: float, rate: float, delay: int, most: float) -> float:
    """How much of an old policy is kept after a step: start + rate · (step - delay), within 0 and ``most``;
    before ``delay`` it is ``start``.
    """
    return min(most, max(0.0, start + rate * max(0, step - delay)))
