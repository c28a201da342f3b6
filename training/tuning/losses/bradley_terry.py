"""The Bradley-Terry loss of reward models."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def bradley_terry_loss(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], target: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """−p log σ(r_w − r_l) − (1 − p) log σ(r_l − r_w): Eq. 1 of arXiv:2009.01325, with p the share of votes.

    Arguments, all (B,): the two scores, and the probability that ``chosen`` is preferred: 1 for a clear
    preference, 1/2 for a tie. Returns (B,); the caller weights and reduces.
    """
    margin = chosen - rejected
    return -target * F.logsigmoid(margin) - (1 - target) * F.logsigmoid(-margin)
