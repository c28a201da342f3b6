"""Losses on pairs of log-ratios: direct preference optimisation and its variants.

All take two tensors (B,): log π(y|x) − log π_ref(y|x) of the chosen and of the rejected completion, summed
over tokens and never divided by length (where a variant wants the mean over tokens, the caller divides). All
return (B,); the caller weights and reduces. In the formulas r_w and r_l are these log-ratios and h = r_w −
r_l; at the start of training all are 0.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def dpo_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " B"]:
    """−(1 − ε) log σ(βh) − ε log σ(−βh): Eq. 7 of arXiv:2305.18290; ε > 0 is its conservative form."""
    h = chosen - rejected
    return -(1 - label_smoothing) * F.logsigmoid(beta * h) - label_smoothing * F.logsigmoid(-beta * h)


def ipo_loss(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], *, beta: float
) -> Float[Tensor, " B"]:
    """(h − 1 / (2β))²: Eq. 17 of arXiv:2310.12036, with β for its τ."""
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def hinge_loss(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], *, beta: float
) -> Float[Tensor, " B"]:
    """max(0, 1 − βh): the loss of SLiC-HF (arXiv:2305.10425) on log-ratios, as in arXiv:2309.06657."""
    return (1 - beta * (chosen - rejected)).relu()


def robust_loss(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], *, beta: float, label_smoothing: float
) -> Float[Tensor, " B"]:
    """[−(1 − ε) log σ(βh) + ε log σ(−βh)] / (1 − 2ε): arXiv:2403.00409.

    Its mean over labels that are flipped with probability ε is the DPO loss of the true labels.
    """
    h = beta * (chosen - rejected)
    clean, flipped = -F.logsigmoid(h), -F.logsigmoid(-h)
    return ((1 - label_smoothing) * clean - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def exo_loss(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], *, beta: float, label_smoothing: float
) -> Float[Tensor, " B"]:
    """KL((σ(βh), σ(−βh)) ‖ (1 − ε, ε)): Eq. 16 of arXiv:2402.00856 for two completions. ε must be above 0."""
    h = beta * (chosen - rejected)
    target = torch.tensor([1 - label_smoothing, label_smoothing], dtype=h.dtype, device=h.device).log()
    return torch.sigmoid(h) * (F.logsigmoid(h) - target[0]) + torch.sigmoid(-h) * (
        F.logsigmoid(-h) - target[1]
    )


def nca_loss(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], *, beta: float
) -> Float[Tensor, " B"]:
    """−log σ(βr_w) − ½ log σ(−βr_w) − ½ log σ(−βr_l): the pairwise NCA of arXiv:2402.05369."""
    return (
        -F.logsigmoid(beta * chosen)
        - 0.5 * F.logsigmoid(-beta * chosen)
        - 0.5 * F.logsigmoid(-beta * rejected)
    )


def bco_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    *,
    beta: float,
    delta: Float[Tensor, ""] | float = 0.0,
) -> Float[Tensor, " B"]:
    """−log σ(βr_w − δ) − log σ(δ − βr_l): arXiv:2404.04656, δ its reward shift."""
    return -F.logsigmoid(beta * chosen - delta) - F.logsigmoid(delta - beta * rejected)


def sppo_loss(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], *, beta: float
) -> Float[Tensor, " B"]:
    """(r_w − 1 / (2β))² + (r_l + 1 / (2β))²: Eq. 4.7 of arXiv:2405.00675, win rates 1 and 0, η = 1 / β."""
    return (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2


def apo_zero_loss(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], *, beta: float
) -> Float[Tensor, " B"]:
    """1 − σ(βr_w) + σ(βr_l): Eq. 7 of arXiv:2408.06266, for chosen answers better than the model's own."""
    return torch.sigmoid(-beta * chosen) + torch.sigmoid(beta * rejected)


def apo_down_loss(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], *, beta: float
) -> Float[Tensor, " B"]:
    """σ(βr_w) + 1 − σ(βh): Eq. 8 of arXiv:2408.06266, for chosen answers worse than the model's own."""
    return torch.sigmoid(beta * chosen) + torch.sigmoid(-beta * (chosen - rejected))


def discopop_loss(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], *, beta: float, tau: float
) -> Float[Tensor, " B"]:
    """(1 − σ(βh / τ)) · −log σ(βh) + σ(βh / τ) · exp(−βh): Eq. 5 of arXiv:2406.08414."""
    h = beta * (chosen - rejected)
    mix = torch.sigmoid(h / tau)
    return (1 - mix) * -F.logsigmoid(h) + mix * torch.exp(-h)


def aot_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    reference_chosen: Float[Tensor, " B"],
    reference_rejected: Float[Tensor, " B"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " B"]:
    """The paired AOT of arXiv:2406.05882 (Algorithm 1): the DPO loss between quantiles.

    The policy's gaps log π(y_w) − log π(y_l) and the reference's are each sorted over the batch, which must
    be the whole batch of an optimizer step; in the order of the quantiles.
    """
    reference = reference_chosen - reference_rejected
    gaps = (chosen - rejected + reference).sort().values
    return dpo_loss(gaps, reference.sort().values, beta=beta, label_smoothing=label_smoothing)


def aot_unpaired_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " B"]:
    """The unpaired AOT of arXiv:2406.05882: r_w and r_l sorted, each over the whole batch of a step."""
    return dpo_loss(chosen.sort().values, rejected.sort().values, beta=beta, label_smoothing=label_smoothing)
