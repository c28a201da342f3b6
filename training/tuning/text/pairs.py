"""Pairs of a batch as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from training.tuning.plan import MicroBatch
from training.tuning.text.dataset import Example


@dataclass(frozen=True)
class PairIndex:
    """B pairs: which candidates of the batch, and weight and target (see ``training.tuning.pairs``)."""

    chosen: Int[Tensor, " B"]
    rejected: Int[Tensor, " B"]
    weight: Float[Tensor, " B"]
    target: Float[Tensor, " B"]


def index_pairs(examples: Sequence[Example], *, device: torch.device | str) -> PairIndex:
    """The pairs of groups that lie one after another in a batch."""
    chosen, rejected, weight, target = [], [], [], []
    offset = 0
    for example in examples:
        for pair in example.pairs:
            chosen.append(offset + pair.chosen)
            rejected.append(offset + pair.rejected)
            weight.append(pair.weight)
            target.append(pair.target)
        offset += len(example.tokens.blocks)
    return PairIndex(
        chosen=torch.tensor(chosen, dtype=torch.long, device=device),
        rejected=torch.tensor(rejected, dtype=torch.long, device=device),
        weight=torch.tensor(weight, dtype=torch.float32, device=device),
        target=torch.tensor(target, dtype=torch.float32, device=device),
    )


def total_weight(examples: Sequence[Example], micro_batches: Sequence[MicroBatch]) -> float:
    """The weight of all pairs of a step: what its loss is divided by, however it is split."""
    return sum(pair.weight for micro in micro_batches for index in micro for pair in examples[index].pairs)
