"""How a corrected answer differs from the one that was shown, word by word."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from annotation.template.texts import Text, plain_text

PIECES = re.compile(r"\w+|\s+|[^\w\s]+")
Difference = list[tuple[str, int, int, int, int]]


def aligned_difference(before: str, after: str) -> Difference:
    """difflib's opcodes over words, punctuation and white space: (operation, start, end, start, end).

    The first start and end are of `before`, the others of `after`. Offsets are in characters and cover both
    texts; operations are equal, replace, delete and insert.
    """
    old, new = PIECES.findall(before), PIECES.findall(after)
    old_at, new_at = _offsets(old), _offsets(new)
    return [
        (operation, old_at[i1], old_at[i2], new_at[j1], new_at[j2])
        for operation, i1, i2, j1, j2 in SequenceMatcher(str.isspace, old, new).get_opcodes()
    ]


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
