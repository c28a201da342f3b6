"""A distance between a square and an absolute value."""

from jaxtyping import Float
from torch import Tensor

Pictures = Float[Tensor, "N *D"]


def pseudo_huber(prediction: Pictures, target: Pictures, *, scale: float) -> Float[Tensor, " N"]:
    """√((p - t)² + c²) - c, number by number, the mean over a picture's numbers, as in the code of Self-NPO
    (arXiv:2505.11777). About (p - t)² / 2c near 0, |p - t| - c far away. Returns (N,).
    """
    away = ((prediction - target).square() + scale**2).sqrt() - scale
    return away.flatten(1).mean(dim=1)
