"""Judgements to weighted pairs, by hand."""

from typing import Any

import pytest

from training.tuning.config import DPOConfig, PairKeys
from training.tuning.data import Group
from training.tuning.pairs import Pair, make_pairs, why_no_pairs


def group(*choices: Any, candidates: int = 2, **judgement: Any) -> Group:
    return Group.model_validate(
        {
            "prompt": "p",
            "candidates": [{"text": f"answer {number}"} for number in range(candidates)],
            "judgements": [{"choice": choice, **judgement} for choice in choices],
        }
    )


def pairs(given: Group, **keys: Any) -> list[Pair]:
    return make_pairs(given, PairKeys(**keys))


def test_each_counts_every_judgement() -> None:
    """Two for the second, one for the first: weight 3, target 2/3."""
    assert pairs(group(1, 1, 0)) == [Pair(1, 0, weight=3, target=2 / 3)]
    assert pairs(group(0)) == [Pair(0, 1)]


def test_majority_and_soft_count_the_group_once() -> None:
    assert pairs(group(1, 1, 0), pairs="majority") == [Pair(1, 0, weight=1, target=1)]
    assert pairs(group(1, 1, 0), pairs="soft") == [Pair(1, 0, weight=1, target=2 / 3)]
    assert pairs(group(1, 0), pairs="majority") == []
    assert pairs(group(1, 0), pairs="majority", ties="half") == [Pair(0, 1, weight=1, target=0.5)]


def test_ties() -> None:
    """A tie is dropped, or is half a vote for each side."""
    assert pairs(group("tie", 0)) == [Pair(0, 1, weight=1, target=1)]
    assert pairs(group("tie", 0), ties="half") == [Pair(0, 1, weight=2, target=0.75)]
    assert pairs(group("tie")) == []
    assert pairs(group("tie"), ties="half") == [Pair(0, 1, weight=1, target=0.5)]
    assert pairs(group(0, "tie", "tie"), ties="half", pairs="majority") == [Pair(0, 1, weight=1, target=0.5)]
    assert pairs(group(0, "tie", "tie"), pairs="majority") == [Pair(0, 1)]


def test_both_bad_is_not_a_tie() -> None:
    assert pairs(group("both_bad"), ties="half") == []
    assert pairs(group("both_bad"), both_bad="half") == [Pair(0, 1, weight=1, target=0.5)]
    assert pairs(group("tie"), both_bad="half") == []


def test_strength() -> None:
    given = Group.model_validate(
        group().model_dump(exclude={"line"})
        | {"judgements": [{"choice": 0, "strength": 3}, {"choice": 1, "strength": 1}, {"choice": 1}]}
    )
    assert pairs(given) == [Pair(1, 0, weight=3, target=2 / 3)]
    assert pairs(given, strength="weight") == [Pair(0, 1, weight=5, target=3 / 5)]


def test_more_candidates() -> None:
    """The best of three beats each other one; a ranking orders all, equals within a tier are ties."""
    assert pairs(group(1, candidates=3)) == [Pair(1, 0), Pair(1, 2)]
    ranked = group(None, candidates=3, ranking=[[2], [0, 1]])
    assert pairs(ranked) == [Pair(2, 0), Pair(2, 1)]
    assert pairs(ranked, ties="half") == [Pair(0, 1, target=0.5), Pair(2, 0), Pair(2, 1)]


@pytest.mark.parametrize("kind", ["gold", "repeat", "qualification"])
def test_checks_of_annotators_are_no_votes(kind: str) -> None:
    assert pairs(group(0, kind=kind)) == []
    assert why_no_pairs(group(0, kind=kind)) == "no judgements"


@pytest.mark.parametrize("kind", ["regular", "review", "judge"])
def test_votes(kind: str) -> None:
    assert pairs(group(0, kind=kind)) == [Pair(0, 1)]


def test_reasons() -> None:
    assert why_no_pairs(group(candidates=1)) == "fewer than two candidates"
    assert why_no_pairs(group()) == "no judgements"
    assert why_no_pairs(group(None, thumbs=[1, 0])) == "no choice or ranking"
    assert why_no_pairs(group("tie")) == "only ties or both-bad"


def test_method_configs_are_pair_keys() -> None:
    assert make_pairs(group(0, "tie"), DPOConfig()) == [Pair(0, 1)]
