"""How a corrected answer differs from the one that was shown, word by word."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Final

from annotation.template.texts import Text, plain_text

PIECES: Final = re.compile(r"\w+|\s+|[^\w\s]+")
MOST_WORK: Final = 10_000_000  # pieces of one text times pieces of the other
Difference = list[tuple[str, int, int, int, int]]


def aligned_difference(before: str, after: str) -> Difference:
    """difflib's opcodes over words, punctuation and white space: (operation, start, end, start, end).

    The first start and end are of `before`, the others of `after`. Offsets are in characters and cover both
    texts; operations are equal, replace, delete and insert. What lies between the common beginning and the
    common end of two long texts is aligned only as far as that takes no longer than an instant; beyond, it is
    one replacement.
    """
    old, new = PIECES.findall(before), PIECES.findall(after)
    first = _shared(old, new)
    last = _shared(old[first:][::-1], new[first:][::-1])
    middle = old[first : len(old) - last], new[first : len(new) - last]
    if len(middle[0]) * len(middle[1]) <= MOST_WORK:
        changes = SequenceMatcher(str.isspace, *middle).get_opcodes()
    else:
        changes = [("replace", 0, len(middle[0]), 0, len(middle[1]))]
    pieces = [("equal", -first, 0, -first, 0), *changes]
    pieces.append(("equal", len(middle[0]), len(middle[0]) + last, len(middle[1]), len(middle[1]) + last))
    old_at, new_at = _offsets(old), _offsets(new)
    return [
        (operation, old_at[first + i1], old_at[first + i2], new_at[first + j1], new_at[first + j2])
        for operation, i1, i2, j1, j2 in pieces
        if i1 < i2 or j1 < j2
    ]


def _shared(old: list[str], new: list[str]) -> int:
    """How many pieces both begin with."""
    pairs = enumerate(zip(old, new, strict=False))
    return next((number for number, (one, other) in pairs if one != other), min(len(old), len(new)))


def differences_of(corrections: Sequence[Text | None], texts: Sequence[Text]) -> list[Difference | None]:
    """For each candidate how its correction differs from it, None where there is none."""
    return [
        None if correction is None else aligned_difference(plain_text(text), plain_text(correction))
        for correction, text in zip(corrections, texts, strict=True)
    ]


def _offsets(words: list[str]) -> list[int]:
    ends = [0]
    for word in words:
        ends.append(ends[-1] + len(word))
    return ends
