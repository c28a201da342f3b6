"""Means over micro-batches, pair metrics, and intervals. What text and image methods log alike."""

import math
from collections import defaultdict

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.processes import add_up


class Means:
    """Weighted means of named values, over the micro-batches of a step or over an evaluation."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._weights: dict[str, float] = defaultdict(float)

    def add(self, values: dict[str, Tensor], weight: Tensor) -> None:
        """Add (B,) values under their names, with (B,) weights."""
        for name, value in values.items():
            self._sums[name] += float((value.detach().double() * weight.double()).sum())
            self._weights[name] += float(weight.double().sum())

    def result(self) -> dict[str, float]:
        """The means over what all processes added; names with no weight are left out."""
        sums, weights = add_up(dict(self._sums)), add_up(dict(self._weights))
        return {name: total / weights[name] for name, total in sums.items() if weights[name]}


def pair_metrics(
    chosen: Float[Tensor, " B"], rejected: Float[Tensor, " B"], target: Float[Tensor, " B"]
) -> dict[str, Tensor]:
    """``rewards/…`` of pairs from the rewards of both sides, each (B,); ``target`` as in ``pairs.Pair``."""
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margin": chosen - rejected,
        "rewards/accuracy": accuracy(chosen - rejected, target),
    }


def accuracy(margin: Float[Tensor, " B"], target: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Share of votes that a margin agrees with: a margin of 0 counts half, and so does a tied vote."""
    right = torch.where(margin > 0, target, 1 - target)
    return torch.where(margin == 0, torch.full_like(right, 0.5), right)


def wilson(successes: float, total: float, *, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share (95 % by default); (0, 1) of nothing."""
    if total == 0:
        return 0.0, 1.0
    share, scaled = successes / total, z * z / total
    middle = (share + scaled / 2) / (1 + scaled)
    half = z / (1 + scaled) * math.sqrt(share * (1 - share) / total + scaled / (4 * total))
    return max(0.0, middle - half), min(1.0, middle + half)
