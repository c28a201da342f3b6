"""Several attributes at once: ratings of helpfulness, correctness, …"""

from jaxtyping import Float
from torch import Tensor


def rating_loss(outputs: Float[Tensor, " B"], ratings: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """(r̂ − r)²: the loss of HelpSteer2's attribute models (arXiv:2406.08673), one entry per given rating.

    A rating that is missing is no entry, so that nothing pulls at its output. Returns (B,); the mean over
    entries is the masked mean squared error.
    """
    return (outputs - ratings) ** 2
