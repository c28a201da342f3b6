"""A latent for each annotator, inferred from their pairs: variational preference learning."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def gaussian_kl(mean: Float[Tensor, "B L"], log_variance: Float[Tensor, "B L"]) -> Float[Tensor, " B"]:
    """KL(N(μ, σ²) ‖ N(0, I)) = ½ Σ (μ² + σ² − 1 − ln σ²) in nats, (B,)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def pooled_posterior(
    votes: Float[Tensor, "B K L"], precisions: Float[Tensor, "B K L"]
) -> tuple[Float[Tensor, "B L"], Float[Tensor, "B L"]]:
    """Mean and log-variance (B, L) of N(0, I) · Π_k N(vote_k, 1 / precision_k), a product of Gaussians.

    The order of the K pairs does not matter, each narrows the posterior, and precision 0 counts for nothing:
    without pairs the prior is left. (Bayesian context aggregation, Volpp et al., ICLR 2021.)
    """
    total = 1 + precisions.sum(dim=1)
    return (precisions * votes).sum(dim=1) / total, -total.log()


def variational_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    target: Float[Tensor, " B"],
    mean: Float[Tensor, "B L"],
    log_variance: Float[Tensor, "B L"],
    *,
    kl: float,
) -> Float[Tensor, " B"]:
    """−log σ(r(y_w, z) − r(y_l, z)) + w · KL(q(z | pairs) ‖ N(0, I)): the negative evidence bound of a pair
    under one draw of z, weighted (VPL, arXiv:2408.10075).

    ``chosen``, ``rejected``: rewards (B,) under z ~ q. ``target``: the probability that the chosen one is
    preferred. With w = 1 / (pairs of the person) the sum over the person's pairs is the bound itself.
    """
    margin = chosen - rejected
    likelihood = target * F.logsigmoid(margin) + (1 - target) * F.logsigmoid(-margin)
    return -likelihood + kl * gaussian_kl(mean, log_variance)


def scaled_reward(rewards: Float[Tensor, " B"], references: Float[Tensor, "B R"]) -> Float[Tensor, " B"]:
    """Mean over R other answers of σ(r(y, z) − r(y', z)), in 0 to 1: how likely the person prefers y to any
    other, so that people whose rewards differ in scale weigh alike (VPL-SPO, arXiv:2408.10075).
    """
    return (rewards[:, None] - references).sigmoid().mean(dim=1)
