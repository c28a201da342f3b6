"""Which groups go into which step. Torch-free.

Batches and their micro-batches are formed once, from the data and the seed; epochs permute the batches. So a
micro-batch always holds the same groups: a reference value that was cached for it was computed by exactly the
same arithmetic, which makes step 0 exact in bfloat16 too. How a batch is split never changes what is in it.
"""

import math
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from training.tuning.config import TrainConfig

MicroBatch = list[int]


@dataclass(frozen=True)
class Plan:
    """``batches[i]`` are the micro-batches of one optimizer step, as indices of groups."""

    batches: list[list[MicroBatch]]
    total_steps: int
    seed: int
    _order: dict[int, list[int]] = field(default_factory=dict, repr=False, compare=False)

    def step(self, number: int) -> list[MicroBatch]:
        """The micro-batches of step ``number``, which counts from 1."""
        return self.batches[self.order((number - 1) // len(self.batches))[(number - 1) % len(self.batches)]]

    def order(self, epoch: int) -> list[int]:
        """The order of the batches in an epoch, which counts from 0; the last one is kept."""
        if epoch not in self._order:
            self._order.clear()
            self._order[epoch] = _shuffled(range(len(self.batches)), f"{self.seed}/epoch/{epoch}")
        return self._order[epoch]

    def micro_batches(self) -> list[MicroBatch]:
        """Every micro-batch once, those that no step reaches left out."""
        used = {index for epoch in range(self.epochs) for index in self._reached(epoch)}
        return [micro for index in sorted(used) for micro in self.batches[index]]

    @property
    def epochs(self) -> int:
        return math.ceil(self.total_steps / len(self.batches))

    def _reached(self, epoch: int) -> list[int]:
        return self.order(epoch)[: self.total_steps - epoch * len(self.batches)]


def make_plan(
    sizes: Sequence[int],
    *,
    config: TrainConfig,
    seed: int,
    budget: int,
    buckets: Sequence[Hashable] | None = None,
) -> Plan:
    """A plan for groups of these sizes (tokens, or pixels).

    A micro-batch holds at most ``config.micro_batch_size`` groups, or, if that is None, as many as stay
    within ``budget`` in sum (always one at least); groups of different ``buckets`` never share one.
    """
    order = _shuffled(range(len(sizes)), f"{seed}/batches")
    chunks = [order[at : at + config.batch_size] for at in range(0, len(order), config.batch_size)]
    processes, even = getattr(config, "processes", 1), getattr(config, "sharded", False)
    batches = [
        halved(
            split(chunk, sizes, most=config.micro_batch_size, budget=budget, buckets=buckets),
            sizes,
            multiple=processes,
        )
        for chunk in chunks
    ]
    if even:  # processes that share weights compute equally often: all of them the whole of a tiny batch
        batches = [batch if len(batch) % processes == 0 else batch * processes for batch in batches]
    total = config.max_steps or math.ceil(config.epochs * len(batches))
    return Plan(batches=batches, total_steps=total, seed=seed)


def split(
    groups: Sequence[int],
    sizes: Sequence[int],
    *,
    most: int | None,
    budget: int,
    buckets: Sequence[Hashable] | None = None,
) -> list[MicroBatch]:
    """Split groups, given by index, into micro-batches, in order within each bucket."""
    done: list[MicroBatch] = []
    unfinished: dict[Hashable, MicroBatch] = {}
    for group in groups:
        bucket = buckets[group] if buckets is not None else None
        micro = unfinished.setdefault(bucket, [])
        full = len(micro) >= most if most else sum(sizes[index] for index in micro) + sizes[group] > budget
        if micro and full:
            done.append(micro)
            micro = unfinished[bucket] = []
        micro.append(group)
    return done + list(unfinished.values())


def halved(micro_batches: list[MicroBatch], sizes: Sequence[int], *, multiple: int) -> list[MicroBatch]:
    """The same with the largest cut in two until their number is a multiple, so that as many processes have
    work; fewer if there are not enough groups.
    """
    found = list(micro_batches)
    while len(found) % multiple:
        of_size = [
            (sum(sizes[index] for index in micro), -at) for at, micro in enumerate(found) if len(micro) > 1
        ]
        if not of_size:
            break
        at = -max(of_size)[1]
        micro, middle = found[at], (len(found[at]) + 1) // 2
        found[at : at + 1] = [micro[:middle], micro[middle:]]
    return found


def _shuffled(values: Sequence[int], seed: str) -> list[int]:
    values = list(values)
    random.Random(seed).shuffle(values)
    return values
