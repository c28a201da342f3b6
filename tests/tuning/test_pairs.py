"""Judgements to weighted pairs, by hand."""

from typing import Any

import pytest

from training.tuning.config import DPOConfig, PairKeys
from training.tuning.data import Group
from training.tuning.errors import BadInput
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


def test_annotators_and_rows_have_weights() -> None:
    """A counts half, B not at all; the row's own weights multiply: .5 · 2 + 1 · 3 votes against 1 · 1."""
    judged = [{"annotator": name, "choice": int(name in "bd")} for name in "abcd"]
    given = Group.model_validate(
        {
            "prompt": "p",
            "candidates": [{"text": "x"}, {"text": "y"}],
            "judgements": judged,
            "meta": {"weights": [2, 5, 3, 1]},
        }
    )
    weights = {"a": 0.5, "b": 0.0}
    assert pairs(given, annotator_weights=weights) == [Pair(0, 1, weight=2.5, target=1.5 / 2.5)]
    assert pairs(given, annotator_weights=weights, row_weights=True) == [Pair(0, 1, weight=5, target=4 / 5)]
    with pytest.raises(BadInput, match="one number from 0 on for each of the 1 judgements"):
        pairs(group(0), row_weights=True)
    assert pairs(group(0, annotator="b"), annotator_weights=weights) == []
    assert why_no_pairs(group(0)) == "only judgements of weight 0"


def test_votes_of_different_strength_or_group_stay_apart() -> None:
    """A tie has no strength, and pairs of one kind of votes add up to the undivided pair's weight."""
    given = Group.model_validate(
        group().model_dump(exclude={"line"})
        | {
            "judgements": [
                {"choice": 0, "strength": 3, "annotator_group": "x"},
                {"choice": 1, "strength": 3, "annotator_group": "y"},
                {"choice": 0, "annotator_group": "y"},
                {"choice": "tie", "annotator_group": "x"},
            ]
        }
    )
    keys = PairKeys(ties="half")
    assert make_pairs(given, keys, apart=["strength"]) == [
        Pair(0, 1, weight=1, target=0.5, strength=0),
        Pair(0, 1, weight=1, target=1, strength=1),
        Pair(0, 1, weight=2, target=0.5, strength=3),
    ]
    assert make_pairs(given, keys, apart=["annotator_group"]) == [
        Pair(0, 1, weight=2, target=0.75, annotator_group="x"),
        Pair(0, 1, weight=2, target=0.5, annotator_group="y"),
    ]
    assert sum(pair.weight for pair in make_pairs(given, keys)) == 4


def test_ties_with_a_probability_of_their_own() -> None:
    keys = PairKeys.model_construct(**PairKeys().model_dump() | {"ties": "davidson"})
    assert make_pairs(group(1, 1, 0, "tie"), keys) == [Pair(1, 0, weight=4, target=0.5, tie=0.25)]
    assert make_pairs(group("tie"), keys) == [Pair(0, 1, weight=1, target=0, tie=1)]
    majority = keys.model_copy(update={"pairs": "majority"})
    assert make_pairs(group(0, "tie", "tie"), majority) == [Pair(0, 1, target=0, tie=1)]


def test_judges_fill_in_for_people() -> None:
    """A judge's vote counts as a person's does, or only where no person has spoken."""
    judge = group(1, kind="judge")
    both = judge.model_copy(update={"judgements": [*judge.judgements, *group(0).judgements]})
    assert pairs(both) == [Pair(0, 1, weight=2, target=0.5)]
    assert pairs(both, judges="fill") == [Pair(0, 1)]
    assert pairs(judge, judges="fill") == [Pair(1, 0)]
