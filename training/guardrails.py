"""What must not get worse while people like a model better: length, diversity, refusals, figures of training.

Each compares the answers of a new model with those of the one that it is to follow, to the same prompts.
"""

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

NGRAM: Final = 2
THUMBNAIL: Final = 16  # pixels
# How answers refuse in English; projects in other languages give phrases of their own.
REFUSALS: Final = (
    r"^\W*(i'?m|i am) (very |really |so )?sorry\b",
    r"^\W*sorry,",
    r"\bi (can('|’)?t|cannot|can not|am unable to|won('|’)?t) (help|assist|answer|provide|do that|comply)\b",
    r"\bas an ai\b",
)


def length_ratio(new: Sequence[str], old: Sequence[str]) -> float:
    """Mean length of the new model's answers in characters over that of the old one's."""
    return _mean([len(text) for text in new]) / max(_mean([len(text) for text in old]), 1.0)


def refusal_share(texts: Sequence[str], phrases: Sequence[str] = ()) -> float:
    """Share of answers that refuse: that hold one of the phrases, or begin as refusals in English do."""
    return _mean([_refuses(text, phrases) for text in texts])


def _refuses(text: str, phrases: Sequence[str]) -> bool:
    if phrases:
        return any(phrase.casefold() in text.casefold() for phrase in phrases)
    return any(re.search(pattern, text, re.IGNORECASE) for pattern in REFUSALS)


def distinct_ngrams(texts: Sequence[str], *, n: int = NGRAM) -> float:
    """Distinct word n-grams over all n-grams of all answers together (distinct-n, arXiv:1510.03055)."""
    ngrams: list[tuple[str, ...]] = []
    for text in texts:
        words = text.split()
        ngrams += zip(*(words[at:] for at in range(n)), strict=False)
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def picture_spread(pictures: Sequence[Image.Image]) -> float:
    """Mean distance of two pictures as thumbnails: the root of the mean squared difference of their channels
    in 0..1, over all pairs."""
    small = [
        np.asarray(one.convert("RGB").resize((THUMBNAIL, THUMBNAIL)), dtype=float) / 255 for one in pictures
    ]
    if len(small) < 2:
        return 0.0
    flat = np.stack(small).reshape(len(small), -1)
    squares = (flat**2).mean(axis=1)
    gaps = squares[:, None] + squares[None, :] - 2 * (flat @ flat.T) / flat.shape[1]
    first, second = np.triu_indices(len(small), 1)
    return float(np.sqrt(np.maximum(gaps[first, second], 0)).mean())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
