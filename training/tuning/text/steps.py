"""Steps of worked answers: where they end in tokens, what people said of them, how their scores add up."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor

from training.tuning.data import Group, plain_text
from training.tuning.pairs import VOTING_KINDS

WRONG = "incorrect"  # the category of a mark, beside ``first_error``
Span = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """A labelled step: its candidate, its characters, and the share of people who found it right."""

    candidate: int
    start: int
    end: int
    target: float


def labelled_steps(group: Group) -> list[Step]:
    """The steps that somebody marked, in order. Votes of several people are averaged."""
    votes: dict[tuple[int, int, int], list[float]] = defaultdict(list)
    for judgement in group.judgements:
        if judgement.kind not in VOTING_KINDS:
            continue
        for mark in judgement.marks or []:
            if mark.type == "step" and mark.start is not None and mark.end is not None:
                wrong = mark.first_error or mark.category == WRONG
                votes[mark.candidate, mark.start, mark.end].append(0.0 if wrong else 1.0)
    return [Step(*place, sum(found) / len(found)) for place, found in sorted(votes.items())]


def labelled_segments(group: Group, by: str, category: str | None) -> list[Step]:
    """The segments of every answer: right in the eyes of those who marked no span (of a category) in them.

    Only people who were asked for marks have a say.
    """
    votes = [one.marks for one in group.judgements if one.kind in VOTING_KINDS and one.marks is not None]
    found = []
    for number, candidate in enumerate(group.candidates if votes else []):
        assert candidate.text is not None
        text = plain_text(candidate.text)
        spans = [
            [
                (mark.start or 0, len(text) if mark.end is None else mark.end)
                for mark in marks
                if mark.type == "span" and mark.candidate == number and category in (None, mark.category)
            ]
            for marks in votes
        ]
        for start, end in segments_of(text, by):
            wrong = sum(any(first < end and start < last for first, last in own) for own in spans)
            found.append(Step(number, start, end, 1 - wrong / len(votes)))
    return found


def steps_of(text: str) -> list[Span]:
    """Where an unmarked answer's steps are: its paragraphs, or, if it has only one, its lines."""
    for gap in (r"\n\s*\n", r"\n"):
        cuts = [0, *(at for found in re.finditer(gap, text) for at in found.span()), len(text)]
        spans = [_trimmed(text, start, end) for start, end in pairwise(cuts)]
        spans = [(start, end) for start, end in spans if end > start]
        if len(spans) > 1:
            return spans
    return spans


# What ends a segment of each kind; the mark itself stays with what it ends.
_ENDS = {"sentences": r"(?<=[.!?])\s+|\n+", "clauses": r"(?<=[.!?,;:])\s+|\n+"}


def segments_of(text: str, by: str) -> list[Span]:
    """Where an answer's segments are: its ``steps``, its ``sentences``, or its ``clauses``."""
    if by == "steps":
        return steps_of(text)
    cuts = [0, *(at for found in re.finditer(_ENDS[by], text) for at in found.span()), len(text)]
    spans = [_trimmed(text, start, end) for start, end in pairwise(cuts)]
    return [(start, end) for start, end in spans if end > start]


def _trimmed(text: str, start: int, end: int) -> Span:
    inside = text[start:end]
    left = len(inside) - len(inside.lstrip())
    return start + left, start + max(left, len(inside.rstrip()))


def last_token(offsets: Sequence[Span], span: Span) -> int | None:
    """The number of a step's last token among the answer's; None if the answer was cut before it."""
    inside = [at for at, (start, end) in enumerate(offsets) if start < span[1] and end > start]
    if not inside or offsets[inside[-1]][1] < span[1]:
        return None
    return inside[-1]


def score_of_steps(logits: Tensor, rule: str) -> Tensor:
    """A log-probability of a whole answer from its steps' logits (S,).

    ``min``: of its worst step (arXiv:2312.08935); ``product``: that all are right (arXiv:2305.20050);
    ``last``: of the last step.
    """
    log_p = F.logsigmoid(logits)
    return {"min": log_p.min(), "product": log_p.sum(), "last": log_p[-1]}[rule]
