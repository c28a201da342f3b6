"""Losses of methods that follow a reward's gradient through an image model. The caller reduces."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "N *D"]


def refl_loss(rewards: Float[Tensor, " N"], *, goal: float) -> Float[Tensor, " N"]:
    """relu(goal − r): ReFL's reward-to-loss map (arXiv:2304.05977); a picture at the goal is left alone.

    The authors' goal is 2, for a standardised ImageReward.
    """
    return F.relu(goal - rewards)


def relative_reward(
    wanted: Float[Tensor, " N"], unwanted: Float[Tensor, " N"], *, strength: float
) -> Float[Tensor, " N"]:
    """(1 + k) r(x, wanted words) − r(x, unwanted words): semantic relative preference (SRPO,
    arXiv:2509.06942). What a reward model likes in every picture cancels.
    """
    return (1 + strength) * wanted - unwanted


def adjoint_matching_loss(
    policy_mean: Latents,
    base_mean: Latents,
    adjoint: Latents,
    *,
    std: float,
) -> Float[Tensor, " N"]:
    """Σ ((Φ_θ − Φ_base) / σ + σ a)² over a picture's numbers: adjoint matching (arXiv:2409.08861).

    Φ are the means of a step with standard deviation σ, and a is the adjoint at the step's end, which is what
    a moved mean moves. Nothing but Φ_θ has a gradient. In a flow it is the step's length times
    ‖(2/σ)(v_θ − v_base) + σ a‖².
    """
    away = (policy_mean - base_mean.detach()) / std + std * adjoint.detach()
    return away.flatten(1).square().sum(dim=1)


def value_loss(
    value: Float[Tensor, " N"], policy: Latents, base: Latents, *, pull: float
) -> Float[Tensor, " N"]:
    """−V(x_{t−1}) + η · mean (ε_θ − ε_base)²: VARD (arXiv:2505.15791)."""
    return pull * (policy - base.detach()).square().flatten(1).mean(dim=1) - value


def uncertain_loss(losses: Float[Tensor, " N"], uncertainty: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """ℓ exp(−U) + U: Ctrl-U (arXiv:2410.11236). exp(−U) keeps its gradient: a free U settles at ln ℓ."""
    return losses * (-uncertainty).exp() + uncertainty


def few_step_loss(parts: Float[Tensor, "N E"], scales: Float[Tensor, "N E"]) -> Float[Tensor, " N"]:
    """−Σ_k r_k / g_k, with g_k the length of reward k's own gradient: R0. Scales then have no say."""
    return -(parts / scales.detach()).sum(dim=1)
