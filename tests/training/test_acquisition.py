"""What to ask next, by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training import acquisition

LN2 = math.log(2)
SCORES = arrays(np.float64, (4, 3), elements=st.floats(-5, 5))


def members(*probabilities: float) -> np.ndarray:
    """Members that give the first of two candidates these probabilities."""
    return np.array([[math.log(p / (1 - p)), 0.0] for p in probabilities])


def test_information_by_hand() -> None:
    """Passes alternating .9 and .1: ln 2 - .3251 = .3681. Members that agree tell nothing."""
    assert acquisition.information(members(0.9, 0.1)) == pytest.approx(LN2 - 0.325083, abs=1e-6)
    assert acquisition.information(members(0.5, 0.5)) == pytest.approx(0, abs=1e-12)
    assert acquisition.uncertainty(members(0.5, 0.5)) == pytest.approx(LN2)
    assert acquisition.information(members(0.9, 0.9)) == pytest.approx(0, abs=1e-12)


@settings(max_examples=50, derandomize=True)
@given(scores=SCORES, shift=arrays(np.float64, (4, 1), elements=st.floats(-5, 5)))
def test_measures_ignore_what_choices_do_not_show(scores, shift) -> None:
    """A constant added to a member's scores changes no measure; order of candidates and members neither."""
    for measure in (acquisition.information, acquisition.disagreement, acquisition.uncertainty):
        value = measure(scores)
        assert value >= 0
        assert measure(scores + shift) == pytest.approx(value, abs=1e-9)
        assert measure(scores[::-1, ::-1]) == pytest.approx(value, abs=1e-9)
    assert acquisition.information(scores) <= min(LN2 * 2, acquisition.uncertainty(scores)) + 1e-12


def test_disagreement_by_hand() -> None:
    """Gaps 1, 3 and 2, 2: standard deviations 1 and 0; the largest counts."""
    assert acquisition.disagreement(np.array([[1.0, 0.0, -1.0], [3.0, 0.0, 1.0]])) == pytest.approx(1)


def test_two_draws_of_the_reward() -> None:
    """Margins 0, 1, 3: pairs differ by 1, 3, 2, mean 2. Draws of N(m, 1) differ by 1.1284 on average."""
    assert acquisition.expected_difference(np.array([0.0, 1.0, 3.0])) == pytest.approx(2)
    quantiles = np.random.default_rng(0).normal(5, 1, 4000)
    assert acquisition.expected_difference(quantiles) == pytest.approx(2 / math.sqrt(math.pi), abs=0.03)
    assert acquisition.expected_difference(np.array([4.0])) == 0


def test_design_before_labels() -> None:
    """Σ = I: (1, 0) has norm 1; asked once, 1/√2 is left, and (0, .9) is next though it was second."""
    directions = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.9]])
    chosen, gains = acquisition.greedy_design(directions, np.ones(3), count=2)
    assert chosen == [0, 2]
    assert gains[0] == pytest.approx(0.5 * LN2)
    assert math.sqrt(math.expm1(2 * gains[1])) == pytest.approx(1 / math.sqrt(2))


def test_design_adds_up_to_the_log_determinant() -> None:
    """The gains of a whole design are ½ log det(I + X'X), in any order that greed finds."""
    directions = np.random.default_rng(1).normal(size=(7, 3))
    chosen, gains = acquisition.greedy_design(directions, np.ones(7))
    assert sorted(chosen) == list(range(7))
    whole = 0.5 * np.linalg.slogdet(np.eye(3) + directions.T @ directions)[1]
    assert gains.sum() == pytest.approx(whole)
    assert list(gains[chosen]) == sorted(gains, reverse=True)


def test_only_what_is_to_be_known_is_asked() -> None:
    """(2, 0) has the most to tell, and nothing of the target (0, 1), of weight 3: 3 · 1² / (1 + 1) is what
    (0, 1) takes away of its variance; then 3 · ½² / (1 + ½), as it is asked again.
    """
    directions = np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    target, weight = np.array([[0.0, 1.0]]), np.array([3.0])
    chosen, gains = acquisition.greedy_variance(directions, np.ones(3), targets=target, weights=weight)
    assert chosen == [1, 2, 0]
    assert gains == pytest.approx([0, 1.5, 0.5])
    first = acquisition.greedy_variance(directions, np.ones(3), targets=target, weights=weight, count=1)
    assert first[0] == [1]
    assert first[1] == pytest.approx([0, 1.5, 0.5])


def test_gains_add_up_to_the_variance_that_is_gone() -> None:
    """Of the targets, Σ w x'Σx, before less after; and no other first question takes away more."""
    rng = np.random.default_rng(3)
    directions, targets = rng.normal(size=(9, 4)), rng.normal(size=(20, 4))
    noise, weights = rng.uniform(1, 5, size=9), rng.uniform(size=20)
    chosen, gains = acquisition.greedy_variance(directions, noise, targets=targets, weights=weights, count=6)

    def left(asked: list[int]) -> float:
        precision = np.eye(4) + (directions[asked] / noise[asked, None]).T @ directions[asked]
        return float(weights @ (targets * (targets @ np.linalg.inv(precision))).sum(axis=1))

    assert sum(gains[chosen]) == pytest.approx(left([]) - left(chosen))
    for turn in range(6):
        after = {at: left([*chosen[:turn], at]) for at in range(9) if at not in chosen[:turn]}
        assert chosen[turn] == min(after, key=lambda at: after[at])


def test_a_batch_does_not_ask_the_same_again() -> None:
    """Twins of the most informative group come after a group that is less informative and new."""
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=(2, 16))
    groups = [
        np.stack([scale * side, np.zeros(16)], axis=1)
        for side, scale in ((first, 2), (first, 1.9), (second, 1.7))
    ]
    assert acquisition.order(groups, by="disagreement") == [0, 1, 2]
    assert acquisition.order(groups, by="batch_information") == [0, 2, 1]
    agreed = np.full((16, 2), 3.0)
    assert acquisition.order([agreed, *groups], by="batch_information")[-1] == 0
    assert acquisition.order([], by="information") == []
