"""What is probably right about one comparison."""

import math

import pytest

from annotation.quality.consensus import consensus_of
from annotation.quality.votes import Unit, Vote
from annotation.quality_words import about_words, said_words

# Annotator 1 is right in 9 of 10 cases, annotator 2 in 3 of 4.
FITTED = {
    "labels": [0, 1],
    "prior": [0.5, 0.5],
    "confusion": {"1": [[0.9, 0.1], [0.1, 0.9]], "2": [[0.75, 0.25], [0.25, 0.75]]},
}


def unit(*said: tuple[int, dict], main: str = "choice", kind: str = "regular") -> Unit:
    votes = tuple(Vote(number, who, kind, values) for number, (who, values) in enumerate(said))
    return Unit(main, ("", ""), (None, None), votes)


def test_two_against_each_other():
    """0.9 · 0.25 against 0.1 · 0.75: 3 to 1 for what the better one said."""
    (found,) = consensus_of(unit((1, {"choice": 0}), (2, {"choice": 1})), FITTED)
    assert (found["about"], found["answer"], found["judgements"]) == ("choice", 0, 2)
    assert found["probability"] == pytest.approx(0.75)
    assert found["chances"] == pytest.approx({"0": 0.75, "1": 0.25})
    assert found["bits"] == pytest.approx(2 - 0.75 * math.log2(3))


def test_who_came_after_the_fit_is_nobody_known():
    """Two right answers and half a wrong one before the first: right in 2 / 2.5 of cases."""
    (found,) = consensus_of(unit((7, {"choice": 1})), FITTED)
    assert (found["answer"], found["probability"]) == (1, pytest.approx(0.8))


def test_what_says_nothing():
    """Gold answers, other questions, answers that the fit does not know, and no fit at all."""
    assert consensus_of(unit((1, {"choice": 0}), kind="gold"), FITTED) == []
    assert consensus_of(unit((1, {"tags.wrong": 1})), FITTED) == []
    assert consensus_of(unit((1, {"choice": "tie"})), FITTED) == []
    assert consensus_of(unit((1, {"choice": 0})), None) == []


def test_ratings_are_a_mean_with_students_interval():
    """2, 3 and 4: mean 3, deviation 1, t of two degrees of freedom 4.303."""
    rated = unit(
        *((who, {"ratings.help#0": value}) for who, value in ((1, 2), (2, 3), (3, 4))), main="ratings"
    )
    (found,) = consensus_of(rated, None)
    half = 4.302653 / math.sqrt(3)
    assert (found["about"], found["mean"], found["judgements"]) == ("ratings.help#0", 3, 3)
    assert (found["low"], found["high"]) == (pytest.approx(3 - half), pytest.approx(3 + half))
    (alone,) = consensus_of(unit((1, {"ratings.help#0": 4}), main="ratings"), FITTED)
    assert (alone["mean"], alone["low"], alone["high"]) == (4, None, None)


@pytest.mark.parametrize(
    ("value", "about", "words"),
    [
        ("1", "choice", "2"),
        ("tie", "choice", "tie"),
        (0, "turns#3", "1"),
        ("-1", "ranking#0-2", "1 > 3"),
        (0, "ranking#0-2", "1 = 3"),
        ("1", "ranking#0-2", "3 > 1"),
        ("1", "thumbs#0", "yes"),
        (0, "rubric.cites#1", "no"),
    ],
)
def test_answers_in_words(value, about, words):
    assert said_words(value, about) == words


def test_what_it_is_about_in_words():
    assert about_words("choice") == "Choice"
    assert about_words("ratings.help#1") == "Rating: help 2"
    assert about_words("ranking#0-2") == "Ranking 1, 3"
