"""Losses of supervised fine-tuning, per answer token."""

from jaxtyping import Float
from torch import Tensor


def sft_loss(logprobs: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
    """Negative log-likelihood of each answer token (C,); the prompt's tokens are not among them.

    The caller reduces: a mean over all answer tokens of an optimizer step, so that it does not matter how the
    step is split.
    """
    return -logprobs


def dft_loss(logprobs: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
    """−sg(π(y_t)) log π(y_t): dynamic fine-tuning, arXiv:2508.05629.

    Likelihood alone is a policy gradient that rewards a token by 1 / π, most where the model errs most; the
    token's own probability, without a gradient, takes that away.
    """
    return -logprobs.detach().exp() * logprobs
