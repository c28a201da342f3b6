"""Weighted denoising errors: supervised training on pictures that count differently.

With the weight w(x_0) the optimal prediction is E[w · target | x_t] / E[w | x_t], that of the data's density
times w. The caller multiplies each denoising error by its weight and reduces.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def exponential_weights(scores: Float[Tensor, " N"], *, temperature: float) -> Float[Tensor, " N"]:
    """exp(r / τ): reward-weighted regression on flow models, Flow-RWR of arXiv:2501.13918.

    The optimum is the data's density times exp(r / τ). Not normalised; takes and returns (N,).
    """
    return (scores / temperature).exp()


def threshold_weights(scores: Float[Tensor, " N"], *, threshold: float) -> Float[Tensor, " N"]:
    """s where s > threshold, else 0: GORS of arXiv:2307.06350. Takes and returns (N,)."""
    return torch.where(scores > threshold, scores, torch.zeros_like(scores))


def curated_weights(scores: Float[Tensor, " K"], *, temperature: float = 1.0) -> Float[Tensor, " K"]:
    """How likely each of K candidates is picked, softmax(r / τ): curation in arXiv:2407.09499.

    The mean over picks of retraining on them: p'(x) = p(x) E[K e^r(x) / (e^r(x) + Σ_{K-1} e^r(x_i))]. For K
    to infinity that is p e^r. Takes and returns (K,).
    """
    return torch.softmax(scores / temperature, dim=0)
