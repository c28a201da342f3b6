"""Preferences with ties (arXiv:2409.17431; for reward models and for the implicit rewards of DPO).

Both models turn d, the difference of two rewards, into three probabilities. All functions take d (B,) and
return (B,): negative log-probabilities of "the first is better" or of a tie; that of "the second is better"
is the first one's at −d.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def rao_kupper_win_loss(margin: Float[Tensor, " B"], *, nu: float) -> Float[Tensor, " B"]:
    """−log P(win), P = e^{r_1} / (e^{r_1} + ν e^{r_2}) = σ(d − log ν). ν > 1."""
    return -F.logsigmoid(margin - math.log(nu))


def rao_kupper_tie_loss(margin: Float[Tensor, " B"], *, nu: float) -> Float[Tensor, " B"]:
    """−log P(tie), P = (ν² − 1) σ(−d − log ν) σ(d − log ν)."""
    alpha = math.log(nu)
    return -math.log(nu * nu - 1) - F.logsigmoid(-margin - alpha) - F.logsigmoid(margin - alpha)


def davidson_win_loss(margin: Float[Tensor, " B"], *, nu: float) -> Float[Tensor, " B"]:
    """−log P(win), P = 1 / (1 + e^{−d} + 2ν e^{−d/2}). ν > 0."""
    zero = torch.zeros_like(margin)
    return torch.logsumexp(torch.stack([zero, -margin, math.log(2 * nu) - margin / 2]), dim=0)


def davidson_tie_loss(margin: Float[Tensor, " B"], *, nu: float) -> Float[Tensor, " B"]:
    """−log P(tie), P = 2ν e^{−d/2} / (1 + e^{−d} + 2ν e^{−d/2})."""
    return davidson_win_loss(margin, nu=nu) + margin / 2 - math.log(2 * nu)


# The losses of a win and of a tie, by the name that configs have for the model.
MODELS = {
    "rao_kupper": (rao_kupper_win_loss, rao_kupper_tie_loss),
    "davidson": (davidson_win_loss, davidson_tie_loss),
}
