"""Diffusion-DPO, arXiv:2311.12908 (Wallace et al., "Diffusion Model Alignment Using Direct Preference
Optimization").
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def diffusion_dpo_loss(
    policy_chosen: Float[Tensor, " B"],
    policy_rejected: Float[Tensor, " B"],
    reference_chosen: Float[Tensor, " B"],
    reference_rejected: Float[Tensor, " B"],
    *,
    beta: Float[Tensor, " B"] | float,
) -> Float[Tensor, " B"]:
    """Per-pair Diffusion-DPO loss: Eq. 14 of arXiv:2311.12908, in the form of the authors' code.

    Arguments, all (B,): denoising errors ``mean((prediction - target)²)`` over all dimensions of one
    latent, at one noise and one timestep that the two images of a pair and both models share.
    They are averages over dimensions, so ``beta`` (published: 2000 to 5000) stands for the paper's
    ``beta · T`` times the number of dimensions; its timestep weight ω is 1, or goes into ``beta`` (B,).

    Returns (B,); the caller reduces: the mean of -log σ over draws, never -log σ of the mean.
    """
    return -F.logsigmoid(
        implicit_reward(policy_chosen, reference_chosen, beta=beta)
        - implicit_reward(policy_rejected, reference_rejected, beta=beta)
    )


def implicit_reward(
    policy: Float[Tensor, " B"], reference: Float[Tensor, " B"], *, beta: Float[Tensor, " B"] | float
) -> Float[Tensor, " B"]:
    """What the policy's errors say of each image, (B,): ``-(beta / 2) (e - e_ref)``.

    Positive where the policy denoises an image better than the reference. In float32 or wider:
    ``beta`` multiplies a small difference of two errors by a thousand.
    """
    return -0.5 * beta * (policy - reference)
