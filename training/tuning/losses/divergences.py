"""f-DPO (arXiv:2309.16240): the reward under another divergence than the reverse Kullback-Leibler.

With D_f(π ‖ π_ref) as the penalty the reward of an answer is β f′(π / π_ref) up to a constant of the prompt,
so a loss of two log-ratios becomes one of two of these scores. All take log-ratios u = log π − log π_ref of
any shape and return f′(e^u) less a constant, so that 0 stays 0.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# exp of more than this leaves float32 once it is squared in a backward pass.
LARGEST_EXPONENT = 80.0


def reverse_kl_score(log_ratio: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """f = t log t, f′ = log t + 1: u, the ordinary log-ratio."""
    return log_ratio


def forward_kl_score(log_ratio: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """f = −log t, f′ = −1 / t: 1 − e^{−u}."""
    return 1 - torch.exp((-log_ratio).clamp(max=LARGEST_EXPONENT))


def js_score(log_ratio: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Jensen-Shannon, f′ = log(2t / (1 + t)): log 2 + log σ(u)."""
    return math.log(2) + F.logsigmoid(log_ratio)


def alpha_score(log_ratio: Float[Tensor, "*n"], *, alpha: float) -> Float[Tensor, "*n"]:
    """α-divergence, f′ = (t^{α−1} − 1) / (α − 1); reverse KL is its limit at α = 1, forward KL its case α =
    0.
    """
    if alpha == 1:
        return log_ratio
    power = ((alpha - 1) * log_ratio).clamp(max=LARGEST_EXPONENT)
    return torch.expm1(power) / (alpha - 1)
