"""Transforms of rewards, each a pure function, and how an ensemble's members become one score."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from training.tuning.rewards.info import RewardInfo


def sigmoid_centred(
    scores: Float[Tensor, " N"], references: Float[Tensor, "N M"], *, scale: float = 1.0
) -> Float[Tensor, " N"]:
    """(1/M) Σ_m σ(k (r − r_ref^m)): PAR, arXiv:2502.18770. A mean of sigmoids, not of references.

    ``references`` are the scores of M answers of the reference policy to the same prompts.
    """
    return torch.sigmoid(scale * (scores[:, None] - references)).mean(dim=1)


def log_sigmoid_centred(
    scores: Float[Tensor, " N"], references: Float[Tensor, "N M"], *, percentile: float = 85.0
) -> Float[Tensor, " N"]:
    """log σ(r − r_ref): LSC, arXiv:2402.00742; sums over rewards are a soft "and" of them.

    r_ref is a percentile (linearly interpolated) of the scores of the reference policy's answers.
    """
    return F.logsigmoid(scores - torch.quantile(references, percentile / 100, dim=1))


def standardise(scores: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """(r − mean) / standard deviation over the N scores (population); zeros where all are alike."""
    centred = scores - scores.mean()
    spread = scores.std(unbiased=False)
    return centred / spread if spread > 0 else centred


def ensemble_mean(members: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
    """The members' mean."""
    return members.mean(dim=1)


def ensemble_min(members: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
    """Worst-case optimisation, min_i r_i (WCO of arXiv:2310.02743)."""
    return members.amin(dim=1)


def ensemble_median(members: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
    """The median; of an even number of members the mean of the middle two (arXiv:2312.09244)."""
    return torch.quantile(members, 0.5, dim=1)


def ensemble_mean_variance(members: Float[Tensor, "N M"], *, penalty: float) -> Float[Tensor, " N"]:
    """Uncertainty-weighted optimisation, mean − λ · variance (population; UWO of arXiv:2310.02743)."""
    return members.mean(dim=1) - penalty * members.var(dim=1, unbiased=False)


def ensemble_mean_std(members: Float[Tensor, "N M"], *, penalty: float = 1.0) -> Float[Tensor, " N"]:
    """mean − λ · standard deviation (population): arXiv:2312.09244 with λ = 1."""
    return members.mean(dim=1) - penalty * members.std(dim=1, unbiased=False)


def aggregate(members: Float[Tensor, "N M"], *, how: str, penalty: float) -> Float[Tensor, " N"]:
    """One of the five by name: mean, min, median, mean_variance, mean_std."""
    if how == "mean_variance":
        return ensemble_mean_variance(members, penalty=penalty)
    if how == "mean_std":
        return ensemble_mean_std(members, penalty=penalty)
    return {"mean": ensemble_mean, "min": ensemble_min, "median": ensemble_median}[how](members)


def one_score(outputs: Float[Tensor, "N K"], info: RewardInfo) -> Float[Tensor, " N"]:
    """The outputs of a scalar model, an ensemble or one of attributes as one score, by ``reward.json``."""
    if info.kind == "attributes" and info.weights:
        return outputs @ outputs.new_tensor(info.weights)
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    return aggregate(outputs, how=info.aggregate.how, penalty=info.aggregate.penalty)


def disagreement(members: Float[Tensor, "N M"]) -> Float[Tensor, " N"]:
    """Standard deviation (population) over the members: how unsure the ensemble is of each candidate."""
    return members.std(dim=1, unbiased=False)
