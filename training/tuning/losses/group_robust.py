"""Group robust preference optimisation, arXiv:2405.20304: the worst of several groups of annotators."""

from jaxtyping import Float
from torch import Tensor


def step_group_weights(
    weights: Float[Tensor, " G"], losses: Float[Tensor, " G"], *, step_size: float
) -> Float[Tensor, " G"]:
    """α_g ← α_g exp(η L_g), renormalised: line 6 of Algorithm 1.

    Arguments (G,): the groups' weights, which sum to 1, and their losses in this batch, scaled to the size of
    the whole data (N / N_g times the group's share of the batch's mean). No gradient flows into the weights.
    """
    scaled: Tensor = weights.log() + step_size * losses.detach()
    return scaled.softmax(0)


def group_robust_loss(weights: Float[Tensor, " G"], losses: Float[Tensor, " G"]) -> Float[Tensor, ""]:
    """Σ_g α_g L_g with the updated weights: line 7 of Algorithm 1."""
    return (weights * losses).sum()
