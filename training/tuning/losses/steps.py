"""Steps of an answer: right or wrong."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def step_loss(logits: Float[Tensor, " B"], target: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """−y log σ(z) − (1 − y) log σ(−z): process reward models (arXiv:2305.20050).

    ``logits`` are read at the last token of each step; ``target`` is the share of people who found the step
    right. Returns (B,).
    """
    return -target * F.logsigmoid(logits) - (1 - target) * F.logsigmoid(-logits)
