"""Losses that couple the pairs of a whole optimizer batch, however it is split into micro-batches."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.tuning.plan import MicroBatch
from training.tuning.processes import count, mine, shared
from training.tuning.text.pairs import PairValues, join_values


def backward_whole(
    read: Callable[[MicroBatch], PairValues],
    micro_batches: Sequence[MicroBatch],
    objective: Callable[[PairValues], Tensor],
) -> None:
    """Gradients of ``objective``, a function of the values of all pairs of a step, in the policy's weights.

    The values are first read without a gradient, the objective gives its slope in each log-ratio, and a
    second reading carries the slopes back. One micro-batch, in one process, is read once.
    """
    kept = [read(micro_batches[0])] if len(micro_batches) == 1 and count() == 1 else []
    with torch.no_grad():
        parts = kept or shared(micro_batches, read)
    leaf = join_values(parts).leaf()
    objective(leaf).backward()
    counts = [len(part.chosen) for part in parts]
    slopes = zip(_slopes(leaf.chosen, counts), _slopes(leaf.rejected, counts), strict=True)
    for number, (chosen, rejected) in mine(list(enumerate(slopes))):
        values = kept[number] if kept else read(micro_batches[number])
        ((values.chosen * chosen).sum() + (values.rejected * rejected).sum()).backward()


def _slopes(leaf: Tensor, counts: list[int]) -> tuple[Tensor, ...]:
    slope = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return slope.split(counts)
