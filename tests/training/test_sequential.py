"""Intervals that one may look at at any time, and what must not get worse."""

import math

import numpy as np
import pytest
from PIL import Image

from training import guardrails
from training.sequential import confidence_sequence


def test_one_score_by_hand() -> None:
    """λ = ½: centre 1, half-width (ln 40 + (ln 2 - ½) / 4) / ½ = 7.47. Forty wins leave little doubt."""
    assert confidence_sequence([1.0]) == (0.0, 1.0)
    low, _high = confidence_sequence([1.0] * 40)
    assert 0.7 < low < 0.85
    assert confidence_sequence([]) == (0.0, 1.0)
    with pytest.raises(ValueError, match=r"1\.5"):
        confidence_sequence([1.5])


def test_mirrored_scores_give_the_mirrored_interval() -> None:
    scores = list(np.random.default_rng(0).random(60))
    low, high = confidence_sequence(scores)
    assert confidence_sequence([1 - one for one in scores]) == pytest.approx((1 - high, 1 - low))
    assert low < np.mean(scores) < high


def test_it_holds_at_all_times_together() -> None:
    """400 fair matches looked at after every answer: at 5 % at most 20 are expected to be called wrongly; the
    fixed interval of the same level, looked at as often, calls several times as many."""
    rng = np.random.default_rng(1)
    wrong = fixed = 0
    for _ in range(400):
        scores = rng.integers(0, 2, 150).astype(float)
        low, high = confidence_sequence(list(scores))
        wrong += not low <= 0.5 <= high
        counts = np.arange(1, 151)
        means = np.cumsum(scores) / counts
        fixed += bool((np.abs(means - 0.5) > 1.96 * np.sqrt(0.25 / counts))[20:].any())
    assert wrong <= 20
    assert fixed > 3 * 20


def test_a_clear_winner_is_known_early() -> None:
    """Nine wins of ten: decided well before 100 answers, and never for the loser."""
    rng = np.random.default_rng(2)
    scores = (rng.random(200) < 0.9).astype(float)
    ends = next(n for n in range(1, 200) if confidence_sequence(list(scores[:n]))[0] > 0.5)
    assert ends < 60


def test_guardrails_by_hand() -> None:
    assert guardrails.length_ratio(["abcd", "ef"], ["ab", "c"]) == pytest.approx(2)
    assert guardrails.distinct_ngrams(["a b a b", "a b"]) == pytest.approx(2 / 4)
    assert guardrails.distinct_ngrams(["one"]) == 0
    assert (
        guardrails.refusal_share(["I'm sorry, no.", "Sure.", "I cannot help with that.", "Sorry days."])
        == 0.5
    )
    assert guardrails.refusal_share(["Das kann ich nicht."], ["kann ICH nicht"]) == 1
    black, white = (Image.new("RGB", (20, 30), colour) for colour in ("black", "white"))
    assert guardrails.picture_spread([black, white, black]) == pytest.approx(2 / 3)
    assert guardrails.picture_spread([black]) == 0
    assert math.isclose(guardrails.picture_spread([black, black]), 0)
