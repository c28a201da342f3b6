"""The loss of supervised fine-tuning."""

from jaxtyping import Float
from torch import Tensor


def sft_loss(logprobs: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
    """Negative log-likelihood of each answer token (C,); the prompt's tokens are not among them.

    The caller reduces: a mean over all answer tokens of an optimizer step, so that it does not matter how the
    step is split.
    """
    return -logprobs
