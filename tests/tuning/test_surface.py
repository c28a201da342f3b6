"""What can be seen of an answer without a model, counted by hand."""

import math
from pathlib import Path

import pytest

from tests.tuning.text_runs import make_run, read_rows, run, state
from training.tuning.rewards.surface import NAMES, surface


def test_counted_by_hand() -> None:
    """Six words in two sentences, five of them different, five different pairs of five; "the cat" is from the
    prompt of four words, twice, as "the", "cat" four of six words and two of five pairs.
    """
    found = dict(zip(NAMES, surface("Where is the cat?", "The cat ran. The cat: 10!"), strict=True))
    assert found == pytest.approx(
        {
            "log words": math.log(7),
            "words in hundreds": 0.06,
            "different words": 4 / 6,
            "different pairs of words": 4 / 5,
            "words from the prompt": 4 / 6,
            "pairs of words from the prompt": 2 / 5,
            "prompt's words used": 2 / 4,
            "log sentences": math.log(3),
            "ends a sentence": 1.0,
            "length of words": 17 / 6,
            "lines": 0.0,
            "digits": 2 / 25,
            "capitals": 2 / 25,
            "signs": 3 / 25,
        }
    )
    assert surface("", "") == [0.0] * len(NAMES)


def test_a_scoring_keeps_them(tmp_path: Path) -> None:
    """Of a list of rewards too, without any model."""
    rows = [{"prompt": "Where is it?", "candidates": [{"text": "Here."}, {"text": "It is there."}]}]
    folder = make_run(
        tmp_path, "score", rows=rows, config={"surface": True}, base=None, reward=[{"rule": "words"}]
    )
    assert run(folder) == 0, state(folder)["error"]
    (found,) = read_rows(folder / "result" / "scores.jsonl")
    expected = [surface("Where is it?", text) for text in ("Here.", "It is there.")]
    assert found["features"] == [pytest.approx(own) for own in expected]
