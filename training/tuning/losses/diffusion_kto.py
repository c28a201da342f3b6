"""Diffusion-KTO, arXiv:2404.04465 (Li et al., "Aligning Diffusion Models by Optimizing Human Utility")."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def gains(policy: Float[Tensor, " B"], reference: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """How much better the policy denoises each picture than the reference, e_ref - e, (B,)."""
    return reference - policy


def kahneman_tversky(
    gain: Float[Tensor, " B"], sign: Float[Tensor, " B"], *, beta: float, baseline: float
) -> Float[Tensor, " B"]:
    """1 - σ(y β (g - Q)): the objective of arXiv:2404.04465 with the utility σ, as in the authors' code.

    Arguments, (B,): ``gain`` as from ``gains``, ``sign`` +1 of a liked and -1 of a disliked picture;
    ``baseline`` is Q, at least 0, without a gradient. At the reference it is 1/2, with the slope β/4 in the
    error of a liked picture and -β/4 in that of a disliked one. Returns (B,); the caller reduces.
    """
    return torch.sigmoid(-sign * beta * (gain - baseline))


def loss_averse(
    gain: Float[Tensor, " B"], sign: Float[Tensor, " B"], *, beta: float, baseline: float
) -> Float[Tensor, " B"]:
    """-ln σ(y β (g - Q)): the concave utility of arXiv:2404.04465; arguments as above."""
    return -F.logsigmoid(sign * beta * (gain - baseline))


def risk_seeking(
    gain: Float[Tensor, " B"], sign: Float[Tensor, " B"], *, beta: float, baseline: float
) -> Float[Tensor, " B"]:
    """ln σ(-y β (g - Q)): the convex utility of arXiv:2404.04465; arguments as above.

    Unbounded below, as the utility is above.
    """
    return F.logsigmoid(-sign * beta * (gain - baseline))


UTILITIES = {
    "kahneman_tversky": kahneman_tversky,
    "loss_averse": loss_averse,
    "risk_seeking": risk_seeking,
}


def mean_gain(gain: Float[Tensor, " B"], good: Float[Tensor, " B"], bad: Float[Tensor, " B"]) -> float:
    """Q, the authors' baseline: the mean gain of a batch, at least 0. ``good`` and ``bad`` are votes (B,)."""
    votes = good + bad
    return max(0.0, float((gain * votes).sum() / votes.sum()))


def mean_of_class_means(
    gain: Float[Tensor, " B"], good: Float[Tensor, " B"], bad: Float[Tensor, " B"]
) -> float:
    """Half the liked pictures' mean gain and half the disliked ones', at least 0; of one class its own."""
    means = [(gain * votes).sum() / votes.sum() for votes in (good, bad) if votes.sum() > 0]
    return max(0.0, float(sum(means) / len(means)))
