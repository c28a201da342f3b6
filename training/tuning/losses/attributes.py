"""Several attributes at once: ratings of helpfulness, correctness, …"""

from jaxtyping import Float
from torch import Tensor


def rating_loss(outputs: Float[Tensor, " B"], ratings: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """(r̂ − r)²: the loss of HelpSteer2's attribute models (arXiv:2406.08673), one entry per given rating.

    A rating that is missing is no entry, so that nothing pulls at its output. Returns (B,); the mean over
    entries is the masked mean squared error.
    """
    return (outputs - ratings) ** 2


def steerlm2_coefficients(
    target: Float[Tensor, " K"], policy: Float[Tensor, " K"], proposal: Float[Tensor, " K"]
) -> Float[Tensor, " K"]:
    """w′ − b′: what multiplies each log Q(y_i) in SteerLM 2's loss, −Σ (w′ − b′) log Q (arXiv:2406.08673).

    ``target``: log P(a|x, y_i) + log P(y_i|x); ``policy``: log Q(y_i); ``proposal``: log Q′(y_i), from which
    the samples came. w′ and b′ are softmaxes of the first two less the third; their difference sums to 0.
    """
    return (target - proposal).softmax(dim=0) - (policy - proposal).softmax(dim=0)
