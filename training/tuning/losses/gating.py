"""GARDO (arXiv:2512.24138): a KL divergence on doubtful pictures alone, and more credit for unlike ones.

Scores are (G, K), of K pictures of each of G prompts. Checked against the authors' scripts and
flow_grpo/stat_tracking.py; but their ranks count from the best, so that they gate what the proxy under-rates.
Here it is what the proxy over-rates, as the paper means it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def win_rates(scores: Float[Tensor, "G K"]) -> Float[Tensor, "G K"]:
    """The share of a prompt's other pictures that a picture beats; a tie counts ½. K > 1."""
    beats = (scores[:, :, None] > scores[:, None, :]).to(scores)
    ties = (scores[:, :, None] == scores[:, None, :]).to(scores)
    wins = beats.sum(dim=2) + (ties.sum(dim=2) - 1) / 2
    return wins / (scores.shape[1] - 1)


def doubt(proxy: Float[Tensor, "G K"], others: Sequence[Float[Tensor, "G K"]]) -> Float[Tensor, "G K"]:
    """U: by how much a picture wins more by the proxy than by the other rewards, on average; -1 to 1."""
    return win_rates(proxy) - torch.stack([win_rates(one) for one in others]).mean(dim=0)


def doubtful(doubts: Float[Tensor, " *N"], *, share: float) -> Bool[Tensor, " *N"]:
    """The pictures with the highest U > 0: about this share of those with U ≥ 0, and all like the last."""
    candidates = doubts[doubts >= 0]
    if len(candidates) == 0:
        return torch.zeros_like(doubts, dtype=torch.bool)
    return (doubts > 0) & (doubts >= torch.quantile(candidates, 1 - share))


def adapted_share(
    share: float, mean: float, recent: Sequence[float], *, least: float = 0.02, most: float = 0.2
) -> float:
    """The share of doubtful pictures, a tenth more or less when the mean of U ≥ 0 leaves the recent range."""
    if recent and mean > max(recent):
        share *= 1.1
    elif recent and mean < min(recent):
        share *= 0.9
    return min(most, max(least, share))


def distance_gains(features: Float[Tensor, "G K D"]) -> Float[Tensor, "G K"]:
    """d / mean d of the cosine distance d to the nearest other picture of the prompt; 1 if all are alike."""
    unit = F.normalize(features.double(), dim=-1)
    distances = (1 - unit @ unit.transpose(1, 2)).clamp(0, 2)
    same = torch.eye(features.shape[1], dtype=torch.bool, device=features.device)
    nearest = distances.masked_fill(same, float("inf")).amin(dim=2)
    mean = nearest.mean(dim=1, keepdim=True)
    return torch.where(mean > 1e-9, nearest / mean.clamp(min=1e-9), 1.0).to(features)


def diverse_advantages(advantages: Float[Tensor, "G K"], gains: Float[Tensor, "G K"]) -> Float[Tensor, "G K"]:
    """Advantages that are not negative, times the gain; the others as they are."""
    return torch.where(advantages >= 0, advantages * gains, advantages)
