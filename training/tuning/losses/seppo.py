"""SePPO, semi-policy preference optimisation, arXiv:2410.05255: winners against earlier selves."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def anchor_sign(
    policy_chosen: Float[Tensor, " B"], reference_chosen: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Whether a reference's sample is pushed down (+1) or pulled up (-1), (B,), without a gradient.

    sign(e_ref - e) of the winner: where the policy does not yet fit the winner better than the reference, the
    reference's sample is worth learning too. At equality, as before the first update, +1.
    """
    better = (reference_chosen - policy_chosen).detach()
    return torch.where(better >= 0, torch.ones_like(better), -torch.ones_like(better))


def seppo_loss(
    policy_chosen: Float[Tensor, " B"],
    policy_sample: Float[Tensor, " B"],
    reference_chosen: Float[Tensor, " B"],
    reference_sample: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    """-ln σ(-(β/2) (Δ_w - q Δ_g)) with Δ = e - e_ref and q from ``anchor_sign``.

    Arguments, (B,): denoising errors as in ``diffusion_dpo_loss``, of a winner and of what the reference drew
    for its prompt, at one noise and timestep. With q = 1 it is that loss. Returns (B,); the caller reduces.
    """
    sign = anchor_sign(policy_chosen, reference_chosen)
    chosen, sample = policy_chosen - reference_chosen, policy_sample - reference_sample
    return -F.logsigmoid(-0.5 * beta * (chosen - sign * sample))
