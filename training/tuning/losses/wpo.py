"""WPO, arXiv:2406.11827: pairs weighted by how likely the policy would write them itself."""

from jaxtyping import Float
from torch import Tensor


def on_policy_weight(
    logprobs: Float[Tensor, " T"], log_sum_squares: Float[Tensor, " T"]
) -> Float[Tensor, ""]:
    """exp of the mean over an answer's tokens of log π(y_t) − log Σ_v π(v)²: Eq. 2, sampled alignment.

    Arguments (T,): the tokens' log-probabilities, and what those of the policy's own samples are expected to
    be in the logarithm. A pair's loss is multiplied by the weights of both answers; no gradient.
    """
    return (logprobs - log_sum_squares).mean().exp().detach()
