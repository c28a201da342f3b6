"""General preferences, which may be cyclic (arXiv:2410.02197)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def preference_scores(first: Float[Tensor, "B D"], second: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
    """s(i ≻ j) = Σ_blocks v_i1 · v_j2 − v_i2 · v_j1: antisymmetric, and able to hold cycles.

    Arguments, (B, D): the embeddings of the two answers, D even: the outputs (0, 1), (2, 3), … are the
    blocks of the skew-symmetric operator.
    """
    return (first[:, ::2] * second[:, 1::2] - first[:, 1::2] * second[:, ::2]).sum(dim=1)


def general_preference_loss(
    chosen: Float[Tensor, "B D"],
    rejected: Float[Tensor, "B D"],
    target: Float[Tensor, " B"],
    *,
    temperature: float,
) -> Float[Tensor, " B"]:
    """−p log σ(s/τ) − (1 − p) log σ(−s/τ), s the score of ``chosen`` over ``rejected``.

    ``target`` (B,) is the probability p that ``chosen`` is preferred. Returns (B,); the caller reduces.
    """
    score = preference_scores(chosen, rejected) / temperature
    return -target * F.logsigmoid(score) - (1 - target) * F.logsigmoid(-score)
