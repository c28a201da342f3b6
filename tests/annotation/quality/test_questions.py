"""Agreement on every question of a template, by hand."""

import pytest

from annotation.quality import report
from annotation.quality.counts import contributions
from annotation.quality.votes import Unit, Vote, read_values


def test_agreement_of_each_question_by_hand():
    """α = 1 − D_o / D_e of two people about three candidates.

    Ratings 4 5 | 1 2: D_o = 4/4, D_e = 2 (1 + 9 + 4 + 16 + 9 + 1) / 12 = 20/3, so 0.85.
    Thumbs 1 1 | 1 0: D_o = 2/4, D_e = 6/12, so 0. Rankings 0 1 2 and 0 2 1 share two of three pairs; five
    votes for the first of a pair and one for the second: D_o = 2/6, D_e = 10/30, so 0. Clarity 0 1: 0.
    """
    anna = {
        "ratings": [{"help": 4}, {"help": 1}],
        "thumbs": [1, 1],
        "ranking": [[0], [1], [2]],
        "aspects": {"clarity": {"choice": 0}},
    }
    ben = {
        "ratings": [{"help": 5}, {"help": 2}],
        "thumbs": [1, 0],
        "ranking": [[0], [2], [1]],
        "aspects": {"clarity": {"choice": 1}},
    }
    votes = tuple(
        Vote(i, i, "regular", read_values(choice=None, strength=None, answers=answers, candidates=3))
        for i, answers in enumerate((anna, ben))
    )
    unit = Unit("ranking", ("", "", ""), (None, None, None), votes)
    found = report.summarise(contributions(unit))["questions"]
    assert {row["question"]: (row["level"], row["units"], row["raw"]["value"]) for row in found} == {
        "aspects.clarity": ("nominal", 1, 0),
        "ranking": ("ordinal", 3, pytest.approx(2 / 3)),
        "ratings.help": ("interval", 2, 0),
        "thumbs": ("nominal", 2, 0.5),
    }
    assert [row["alpha"]["value"] for row in found] == pytest.approx([0, 0, 0.85, 0])
