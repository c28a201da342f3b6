"""The pairs of several groups as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from training.tuning.labels import Label
from training.tuning.pairs import Pair


@dataclass(frozen=True)
class PairIndex:
    """P pairs of a micro-batch, all (P,): positions among its candidates, weights, targets and ties (see
    ``pairs``).
    """

    chosen: Int[Tensor, " P"]
    rejected: Int[Tensor, " P"]
    weight: Float[Tensor, " P"]
    target: Float[Tensor, " P"]
    tie: Float[Tensor, " P"]


def index_pairs(
    pairs: Sequence[Sequence[Pair]], candidates: Sequence[int], *, device: torch.device
) -> PairIndex:
    """Join the pairs of groups whose candidates, so many in each group, lie one after another."""
    chosen, rejected, weight, target, tie = [], [], [], [], []
    start = 0
    for group, count in zip(pairs, candidates, strict=True):
        chosen += [start + pair.chosen for pair in group]
        rejected += [start + pair.rejected for pair in group]
        weight += [pair.weight for pair in group]
        target += [pair.target for pair in group]
        tie += [pair.tie for pair in group]
        start += count
    return PairIndex(
        torch.tensor(chosen, device=device),
        torch.tensor(rejected, device=device),
        torch.tensor(weight, device=device),
        torch.tensor(target, device=device),
        torch.tensor(tie, device=device),
    )


def index_labels(
    labels: Sequence[Sequence[Label]], candidates: Sequence[int], *, majority: bool, device: torch.device
) -> PairIndex:
    """Labels of single candidates as pairs with one more candidate, the last, whose score is 0: then
    Bradley-Terry is the cross-entropy of σ(score). ``majority``: one vote each, none where they are equal.
    """
    pairs, start = [], 0
    for group, count in zip(labels, candidates, strict=True):
        for label in group:
            votes = label.good + label.bad
            if not majority:
                pairs.append((start + label.candidate, votes, label.good / votes))
            elif label.good != label.bad:
                pairs.append((start + label.candidate, 1.0, float(label.good > label.bad)))
        start += count
    chosen, weight, target = zip(*pairs, strict=True) if pairs else ((), (), ())
    return PairIndex(
        torch.tensor(chosen, dtype=torch.long, device=device),
        torch.full((len(pairs),), start, device=device),
        torch.tensor(weight, dtype=torch.float32, device=device),
        torch.tensor(target, dtype=torch.float32, device=device),
        torch.zeros(len(pairs), device=device),
    )
