"""How much each token of an answer counts in the sums that pair losses read.

One mechanism for all: a function of an example and a pair gives a weight for every token of both answers.
Lengths, annotators' marks, edits and the token rewards of a tuned policy are its sources; where several are
asked for, their weights multiply.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.data import Mark
from training.tuning.pairs import VOTING_KINDS, Pair
from training.tuning.text.dataset import Example
from training.tuning.text.pairs import TokenWeights


def token_weights(config: Any, *, guide: TokenWeights | None = None) -> TokenWeights | None:
    """What the config (and a guide) ask for; None if all tokens count alike."""
    sources: list[TokenWeights] = [guide] if guide is not None else []
    if config.ld_alpha is not None and config.ld_alpha != 1:
        sources.append(partial(by_length, alpha=config.ld_alpha))
    if config.focus == "marks":
        sources.append(partial(by_marks, rest=config.rest_weight))
    if config.focus == "edits":
        sources.append(partial(by_edits, rest=config.rest_weight))
    if not sources:
        return None

    def weigh(example: Example, pair: Pair) -> tuple[Tensor, Tensor]:
        found = [source(example, pair) for source in sources]
        chosen, rejected = found[0]
        for more_chosen, more_rejected in found[1:]:
            chosen, rejected = chosen * more_chosen, rejected * more_rejected
        return chosen, rejected

    return weigh


def by_length(example: Example, pair: Pair, *, alpha: float) -> tuple[Tensor, Tensor]:
    """1 for the tokens that the other answer is long enough to have, alpha beyond: arXiv:2409.06411."""
    answers = example.tokens.answers
    chosen, rejected = len(answers[pair.chosen]), len(answers[pair.rejected])
    shared = min(chosen, rejected)
    return _after(shared, chosen, alpha), _after(shared, rejected, alpha)


def by_marks(example: Example, pair: Pair, *, rest: float) -> tuple[Tensor, Tensor]:
    """1 for tokens inside spans that annotators marked, ``rest`` outside; 1 throughout unmarked answers."""
    assert example.tokens.offsets is not None
    marks = [
        mark
        for judgement in example.group.judgements
        if judgement.kind in VOTING_KINDS
        for mark in judgement.marks or []
        if mark.type == "span"
    ]
    chosen, rejected = (
        marked_weights(
            example.tokens.offsets[side], [mark for mark in marks if mark.candidate == side], rest=rest
        )
        for side in (pair.chosen, pair.rejected)
    )
    return chosen, rejected


def marked_weights(
    offsets: Sequence[tuple[int, int]], marks: Sequence[Mark], *, rest: float
) -> Float[Tensor, " T"]:
    """Weights (T,) of tokens that hold these characters, by the spans that were marked."""
    spans = [(mark.start or 0, mark.end) for mark in marks]
    if not spans:
        return torch.ones(len(offsets))
    inside = [
        any(first < end and (last is None or start < last) for first, last in spans) and start < end
        for start, end in offsets
    ]
    return torch.where(torch.tensor(inside), 1.0, rest)


def by_edits(example: Example, pair: Pair, *, rest: float) -> tuple[Tensor, Tensor]:
    """1 for the tokens in which the two answers differ, ``rest`` for those that they share, in order."""
    answers = example.tokens.answers
    return edit_weights(answers[pair.chosen], answers[pair.rejected], rest=rest)


def edit_weights(
    chosen: Sequence[int], rejected: Sequence[int], *, rest: float
) -> tuple[Float[Tensor, " T"], Float[Tensor, " S"]]:
    """Weights of the tokens of two answers, from the longest blocks that they have in common."""
    weights = torch.ones(len(chosen)), torch.ones(len(rejected))
    for block in SequenceMatcher(None, chosen, rejected, autojunk=False).get_matching_blocks():
        weights[0][block.a : block.a + block.size] = rest
        weights[1][block.b : block.b + block.size] = rest
    return weights


def _after(shared: int, length: int, alpha: float) -> Tensor:
    weights = torch.full((length,), alpha)
    weights[:shared] = 1
    return weights
