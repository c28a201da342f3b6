"""Losses on pairs of log-ratios: direct preference optimisation and its variants.

All take four tensors (B,): the log-probability of a whole completion given its prompt, summed over tokens and
never divided by length. All return (B,); the caller weights and reduces. In the formulas h = (log π(y_w) −
log π_ref(y_w)) − (log π(y_l) − log π_ref(y_l)).
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def dpo_loss(
    policy_chosen: Float[Tensor, " B"],
    policy_rejected: Float[Tensor, " B"],
    reference_chosen: Float[Tensor, " B"],
    reference_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " B"]:
    """−(1 − ε) log σ(βh) − ε log σ(−βh): Eq. 7 of arXiv:2305.18290; ε > 0 is its conservative form."""
    h = log_ratio_margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return -(1 - label_smoothing) * F.logsigmoid(beta * h) - label_smoothing * F.logsigmoid(-beta * h)


def ipo_loss(
    policy_chosen: Float[Tensor, " B"],
    policy_rejected: Float[Tensor, " B"],
    reference_chosen: Float[Tensor, " B"],
    reference_rejected: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    """(h − 1 / (2β))²: Eq. 17 of arXiv:2310.12036, with β for its τ."""
    h = log_ratio_margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return (h - 1 / (2 * beta)) ** 2


def hinge_loss(
    policy_chosen: Float[Tensor, " B"],
    policy_rejected: Float[Tensor, " B"],
    reference_chosen: Float[Tensor, " B"],
    reference_rejected: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    """max(0, 1 − βh): the loss of SLiC-HF (arXiv:2305.10425) on log-ratios, as in arXiv:2309.06657."""
    h = log_ratio_margin(policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    return (1 - beta * h).relu()


def log_ratio_margin(
    policy_chosen: Float[Tensor, " B"],
    policy_rejected: Float[Tensor, " B"],
    reference_chosen: Float[Tensor, " B"],
    reference_rejected: Float[Tensor, " B"],
) -> Float[Tensor, " B"]:
    """h: how much more the policy moved towards the chosen than the rejected. Exactly 0 at the start."""
    return (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
