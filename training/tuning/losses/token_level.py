"""Preference losses that also read the divergence token by token: TDPO and its kin.

Log-ratios (B,) are sums over the answers' tokens of log π − log π_ref; divergences (B,) the sums over the
same tokens of KL(π_ref ‖ π) of the next token, over the whole vocabulary. Both may be weighted by token
before. All return (B,); the caller weights and reduces.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def tdpo1_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    chosen_kl: Float[Tensor, " B"],
    rejected_kl: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    """−log σ(β[(r_w − r_l) − (D_l − D_w)]): TDPO1 of arXiv:2404.11999; gradients flow through both
    divergences.
    """
    return -F.logsigmoid(beta * ((chosen - rejected) - (rejected_kl - chosen_kl)))


def tdpo2_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    chosen_kl: Float[Tensor, " B"],
    rejected_kl: Float[Tensor, " B"],
    *,
    beta: float,
    alpha: float,
) -> Float[Tensor, " B"]:
    """−log σ(β[(r_w − r_l) − α(D_l − sg D_w)]): TDPO2 of arXiv:2404.11999."""
    return -F.logsigmoid(beta * ((chosen - rejected) - alpha * (rejected_kl - chosen_kl.detach())))


def rrpo_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    chosen_kl: Float[Tensor, " B"],
    *,
    beta: float,
    alpha: float,
) -> Float[Tensor, " B"]:
    """−log σ(β(r_w − r_l)) + α D_w, the log-ratios over the phrases that differ: arXiv:2504.12083."""
    return -F.logsigmoid(beta * (chosen - rejected)) + alpha * chosen_kl


def guided_weights(
    token_rewards: Float[Tensor, " T"], *, alpha: float, beta: float
) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    """1 ± αβρ_t, of a chosen and of a rejected answer's tokens: TGDPO, arXiv:2506.14574.

    ρ_t (T,) is log π' / π_ref of the token under an already tuned policy. No gradient.
    """
    shift = alpha * beta * token_rewards.detach()
    return 1 + shift, 1 - shift
