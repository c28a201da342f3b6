"""D3PO, arXiv:2311.13231 (Yang et al., "Using Human Feedback to Fine-tune Diffusion Models without Any Reward
Model"): DPO on every step of two chains.
"""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def d3po_loss(
    policy_chosen: Float[Tensor, " B"],
    policy_rejected: Float[Tensor, " B"],
    reference_chosen: Float[Tensor, " B"],
    reference_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    clip: float,
) -> Float[Tensor, " B"]:
    """-ln σ(β ln ρ_w - β ln ρ_l) of one denoising step of both chains, with ρ = π / π_ref as they happened.

    Arguments, (B,): log-probabilities of a step, means over the picture's numbers. As in the authors' code ρ
    is kept within 1 ± ``clip``: a step stops learning once it has moved that far. Returns (B,); the caller
    reduces.
    """
    return -F.logsigmoid(
        beta * clipped_log_ratio(policy_chosen, reference_chosen, clip=clip)
        - beta * clipped_log_ratio(policy_rejected, reference_rejected, clip=clip)
    )


def clipped_log_ratio(
    policy: Float[Tensor, " B"], reference: Float[Tensor, " B"], *, clip: float
) -> Float[Tensor, " B"]:
    """ln clamp(π / π_ref, 1 ± clip), (B,), without the ratio itself, which overflows."""
    return (policy - reference).clamp(math.log1p(-clip), math.log1p(clip))
