"""Answers about answers: how they are corrected, and what is quoted in criticising them.

The prompts of correctors and critics, to train them (``sft``) and to ask them (``rewards/credited.py``).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from training.tuning.data import Candidate, Group, Mark, Message, Text, plain_text
from training.tuning.pairs import VOTING_KINDS
from training.tuning.text.tokens import Unusable

REWRITE = "Write the answer again as it should be."
CRITIQUE = "Criticise the answer, a line each: + and a quotation that is good, or - and one that is poor."

logger = logging.getLogger("training.tuning")


def about_answer(prompt: Text, answer: str, request: str) -> Text:
    """A prompt, an answer to it, and what is asked about the answer; as text or messages, like the prompt."""
    if isinstance(prompt, str):
        return f"{prompt}\n\nAnswer: {answer}\n\n{request}\n"
    turns = (Message(role="assistant", content=answer), Message(role="user", content=request))
    return [*prompt, *turns]


def rewrites_of(group: Group, better: Callable[[Group], list[int]]) -> Iterator[tuple[Text, str]]:
    """(about which answer, its rewrite): a worse answer becomes the preferred one, and that stays as it is.

    Corrections are rewrites of what they correct; without any, ``better`` names the preferred candidates, or
    raises Unusable. (Seq2Seq reward modelling, arXiv:2409.00162.)
    """
    texts = _texts(group)
    votes = [one for one in group.judgements if one.kind in VOTING_KINDS]
    found = [
        (texts[index], plain_text(correction))
        for vote in votes
        for index, correction in enumerate(vote.corrections or [])
        if correction is not None
    ]
    if not found and votes:
        winners = better(group)
        found = [
            (text, texts[winner])
            for winner in winners
            for index, text in enumerate(texts)
            if index not in winners
        ]
    if not found:
        raise Unusable("no answer is corrected, and none preferred to another")
    for answer, rewrite in found:
        yield about_answer(group.prompt, answer, REWRITE), rewrite
        yield about_answer(group.prompt, rewrite, REWRITE), rewrite


def critiques_of(group: Group, praise: Sequence[str]) -> Iterator[tuple[Text, str]]:
    """(about which answer, its critique): every judgement's spans as quotations, good ones by ``praise``."""
    found = False
    for vote in group.judgements:
        if vote.kind not in VOTING_KINDS or vote.marks is None:
            continue
        for number, text in enumerate(_texts(group)):
            spans = [mark for mark in vote.marks if mark.type == "span" and mark.candidate == number]
            if spans:
                found = True
                written = "\n".join(f"{_sign(mark, praise)} {_quoted(mark, text)}" for mark in spans)
                yield about_answer(group.prompt, text, CRITIQUE), written
    if not found:
        raise Unusable("no span is marked")


def read_critique(text: str) -> tuple[list[str], list[str]]:
    """The quotations of a critique: what it finds good, and what poor. Other lines are talk."""
    lines = [line.strip() for line in text.splitlines()]
    good = [line[1:].strip() for line in lines if line.startswith("+")]
    return good, [line[1:].strip() for line in lines if line.startswith("-")]


def as_demonstrations(
    groups: Sequence[Group], derive: Callable[[Group], Iterator[tuple[Text, str]]]
) -> list[Group]:
    """A group with one answer for everything that ``derive`` gives of each; it may raise Unusable."""
    found: list[Group] = []
    reasons: list[str] = []
    for group in groups:
        try:
            derived = list(derive(group))
        except Unusable as reason:
            reasons.append(str(reason))
            continue
        for prompt, answer in derived:
            changes: dict[str, Any] = {"candidates": [Candidate(text=answer)], "judgements": [], "meta": {}}
            found.append(group.model_copy(update={"prompt": prompt, **changes}))
    if reasons:
        logger.info("%d of %d rows left out: %s", len(reasons), len(groups), "; ".join(sorted(set(reasons))))
    return found


def _texts(group: Group) -> list[str]:
    return [plain_text(candidate.text) for candidate in group.candidates if candidate.text is not None]


def _sign(mark: Mark, praise: Sequence[str]) -> str:
    return "+" if mark.category in praise else "-"


def _quoted(mark: Mark, text: str) -> str:
    return " ".join(text[mark.start or 0 : mark.end].split())
