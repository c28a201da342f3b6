"""Group batches: several groups in one row of tokens, nothing padded.

A group is written as its shared prefix and then its candidates' blocks; positions restart at the prefix's
length for each block, so that every candidate sees the prompt and itself and nothing else. See
``attention.py`` for how the layout is obeyed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from training.tuning.text.pictures import Picture
from training.tuning.text.tokens import EncodedGroup


@dataclass(frozen=True)
class Segment:
    """Where one group lies in the row: ``prefix`` tokens from ``start``, then its ``blocks``."""

    start: int
    prefix: int
    blocks: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + self.prefix + sum(self.blocks)


@dataclass
class Layout:
    """What attention must know. ``calls`` counts layers that obeyed it; ``masks`` is what they share.

    ``read`` are the tokens whose last state somebody wants, in order; None: all of them.
    """

    segments: tuple[Segment, ...]
    causal: bool
    read: Tensor | None = None
    calls: int = 0
    masks: dict[object, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupBatch:
    """One row of T tokens with N candidates in all, of which C tokens belong to answers.

    ``predict_at[c]`` is where the state lies that predicts ``targets[c]``: the token before it in the same
    block, or the last of the prefix, which all candidates share. ``counts[n]`` answer tokens belong to
    candidate n, in order; ``first[n]`` and ``last[n]`` are the ends of its block. ``sizes`` are the numbers
    of candidates by group. ``pictures`` are those of all prompts, in the order of the row.
    """

    input_ids: Int[Tensor, "1 T"]
    position_ids: Int[Tensor, "1 T"]
    token_type_ids: Int[Tensor, "1 T"] | None
    layout: Layout
    predict_at: Int[Tensor, " C"]
    targets: Int[Tensor, " C"]
    counts: list[int]
    first: Int[Tensor, " N"]
    last: Int[Tensor, " N"]
    sizes: list[int]
    pictures: list[Picture] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """T: what the model computes."""
        return self.input_ids.shape[1]

    def offsets(self) -> list[int]:
        """The number of each group's first candidate."""
        return [sum(self.sizes[:at]) for at in range(len(self.sizes))]


def make_batch(
    groups: Sequence[EncodedGroup],
    *,
    causal: bool,
    device: torch.device | str = "cpu",
    position_offset: int = 0,
) -> GroupBatch:
    """Lay out groups one after another. ``position_offset`` is the number of a sequence's first position."""
    ids: list[int] = []
    positions: list[int] = []
    types: list[int] = []
    predict_at: list[int] = []
    targets: list[int] = []
    first: list[int] = []
    last: list[int] = []
    segments = []
    for group in groups:
        start, prefix = len(ids), len(group.prefix)
        segments.append(Segment(start, prefix, tuple(len(block) for block in group.blocks)))
        ids += group.prefix
        positions += range(prefix)
        for number, (block, answer) in enumerate(zip(group.blocks, group.starts, strict=True)):
            at = len(ids)
            ids += block
            positions += range(prefix, prefix + len(block))
            types += group.types[number] if group.types else []
            before = start + prefix - 1
            predict_at += [at + place - 1 if place else before for place in range(answer, len(block))]
            targets += block[answer:]
            first.append(at)
            last.append(at + len(block) - 1)

    def row(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return GroupBatch(
        input_ids=row(ids)[None],
        position_ids=row(positions)[None] + position_offset,
        token_type_ids=row(types)[None] if types else None,
        layout=Layout(tuple(segments), causal=causal),
        predict_at=row(predict_at),
        targets=row(targets),
        counts=[len(answer) for group in groups for answer in group.answers],
        first=row(first),
        last=row(last),
        sizes=[len(group.blocks) for group in groups],
        pictures=[picture for group in groups for picture in group.pictures],
    )
