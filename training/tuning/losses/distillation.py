"""Distances of a student's next-token distributions from a teacher's (Agarwal et al., arXiv:2306.13649)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def generalised_jsd(
    student: Float[Tensor, "C V"], teacher: Float[Tensor, "C V"], *, beta: float
) -> Float[Tensor, " C"]:
    """β KL(q ‖ m) + (1 − β) KL(p ‖ m) with m = β q + (1 − β) p: Eq. 1, q the teacher and p the student.

    Arguments are log-probabilities (C, V). β = 0 is KL(q ‖ p), which covers all that the teacher says; β = 1
    KL(p ‖ q), which keeps to what it says most. Returns (C,); the caller reduces.
    """
    if beta == 0:
        return _kl(teacher, student)
    if beta == 1:
        return _kl(student, teacher)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def _kl(of: Tensor, to: Tensor) -> Tensor:
    return (of.exp() * (of - to)).sum(dim=1)
