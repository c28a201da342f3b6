"""What can be seen of an answer without a model: features of a linear reward, beside a model's or alone.

People's choices depend on much of this, and so few numbers are learnt from few answers. Torch-free.
"""

import itertools
import math
import re
from typing import Final

WORD: Final = re.compile(r"\w+")
SENTENCE_END: Final = re.compile(r"(?<=[.!?。！？])\s")
NAMES: Final = (
    "log words", "words in hundreds", "different words", "different pairs of words", "words from the prompt",
    "pairs of words from the prompt", "prompt's words used", "log sentences", "ends a sentence",
    "length of words", "lines", "digits", "capitals", "signs",
)  # fmt: skip


def surface(prompt: str, answer: str) -> list[float]:
    """The numbers of `NAMES`: logarithms of 1 + a count, and shares of words, pairs of words or characters;
    0 where there is nothing to count.
    """
    words, asked = WORD.findall(answer.lower()), WORD.findall(prompt.lower())
    pairs, asked_pairs = list(itertools.pairwise(words)), set(itertools.pairwise(asked))
    asked_words = set(asked)
    sentences = [part for part in SENTENCE_END.split(answer) if part.strip()]
    letters = max(1, len(answer))
    return [
        math.log1p(len(words)),
        len(words) / 100,
        _share(len(set(words)), len(words)),
        _share(len(set(pairs)), len(pairs)),
        _share(sum(word in asked_words for word in words), len(words)),
        _share(sum(pair in asked_pairs for pair in pairs), len(pairs)),
        _share(len(asked_words & set(words)), len(asked_words)),
        math.log1p(len(sentences)),
        float(answer.rstrip()[-1:] in tuple(".!?。！？")),
        _share(sum(map(len, words)), len(words)),
        float(answer.count("\n")),
        sum(map(str.isdigit, answer)) / letters,
        sum(map(str.isupper, answer)) / letters,
        sum(not (sign.isalnum() or sign.isspace()) for sign in answer) / letters,
    ]


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0
