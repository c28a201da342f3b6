"""DPO with more than two answers or more than one opinion. Log-ratios are sums over the answers' tokens; all
return one value per pair or answer (B,); the caller weights and reduces.
"""

from jaxtyping import Float
from torch import Tensor

from training.tuning.losses.dpo import dpo_loss


def wrpo_loss(
    source: Float[Tensor, " B"],
    target: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    *,
    beta: float,
    alpha: float,
) -> Float[Tensor, " B"]:
    """−log σ(β[α r_ws + (1 − α) r_wt − r_l]): WRPO, arXiv:2412.03187. The best answer of other models
    (source) and the model's own best (target) share the place of the chosen one.
    """
    return dpo_loss(alpha * source + (1 - alpha) * target, rejected, beta=beta)


def vrpo_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    target: Float[Tensor, " B"],
    opinion: Float[Tensor, " B"],
    *,
    beta: float,
) -> Float[Tensor, " B"]:
    """ℓ_p − ℓ_g, where ℓ_q = q ℓ(w, l) + (1 − q) ℓ(l, w): a person's preference p less an auxiliary model's
    g.

    The first two terms of VRPO, arXiv:2504.03784; the third is ``expected_loss`` on answers of the reference,
    which has the same mean as what is taken away here if g is right.
    """
    return expected_loss(chosen, rejected, target, beta=beta) - expected_loss(
        chosen, rejected, opinion, beta=beta
    )


def expected_loss(
    first: Float[Tensor, " B"], second: Float[Tensor, " B"], opinion: Float[Tensor, " B"], *, beta: float
) -> Float[Tensor, " B"]:
    """g ℓ(a, b) + (1 − g) ℓ(b, a) with ℓ the DPO loss and g the probability that a is better."""
    forward, backward = dpo_loss(first, second, beta=beta), dpo_loss(second, first, beta=beta)
    return opinion * forward + (1 - opinion) * backward


def selm_bonus(log_ratio: Float[Tensor, " B"], *, beta: float, alpha: float) -> Float[Tensor, " B"]:
    """αβ r(y'): SELM, arXiv:2405.19332. Added to the DPO loss it pushes the round's own greedy answer y'
    down, so that the next round explores.
    """
    return alpha * beta * log_ratio
