"""Questions by the features of the answers, by hand."""

import math

import numpy as np
import pytest
from scipy.special import expit

from training import designs


@pytest.mark.system("s000-085")
def test_pairs_in_the_norm_of_the_inverse_covariance() -> None:
    """Σ = I: (1, 0) has norm 1; then Σ = diag(2, 1) and it has 1/√2, so that (0, .9) is next. What was asked
    before counts the same, and no answer is read.
    """
    directions = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.9]])
    chosen, gains = designs.reward_agnostic(directions, count=2)
    assert chosen == [0, 2]
    assert math.sqrt(math.expm1(2 * gains[0])) == pytest.approx(1)
    assert math.sqrt(math.expm1(2 * gains[1])) == pytest.approx(1 / math.sqrt(2))
    chosen, gains = designs.reward_agnostic(directions[1:], asked=directions[:1], count=1)
    assert chosen == [1]
    assert math.sqrt(math.expm1(2 * gains[0])) == pytest.approx(1 / math.sqrt(2))
    gains = designs.reward_agnostic(directions, ridge=3.0, count=1)[1]
    assert gains[0] == pytest.approx(0.5 * math.log(1 + 1 / 3))


def test_farthest_candidates() -> None:
    """0, 3 and 1 on a line: 0 and 3. In a norm that sees the second axis alone, the first and the last."""
    points = np.array([[0.0, 0.0], [3.0, 0.0], [1.0, 1.0]])
    assert list(designs.farthest(points)) == [-3, 0]
    assert list(designs.farthest(points, np.diag([0.0, 1.0]))) == [-1, -1]


def test_what_a_linear_reward_has_learnt() -> None:
    """One dimension, Δ = 1, three of four answers for the first: a ridge draws θ in from ln 3, to where
    4 (¾ − σ(θ)) = ridge · θ; the variance is 1 / (4 p(1 − p) + ridge). Of 4,000 answers ln 3 is left.
    """
    directions, targets = np.ones((4, 1)), np.array([1.0, 1.0, 1.0, 0.0])
    found = designs.learn(directions, targets)
    p = expit(found.mean[0])
    assert 4 * (0.75 - p) == pytest.approx(found.ridge * found.mean[0], abs=1e-6)
    assert found.covariance[0, 0] == pytest.approx(1 / (4 * p * (1 - p) + found.ridge))
    nothing = designs.learn(np.zeros((0, 2)), np.zeros(0))
    assert list(nothing.mean) == [0, 0]
    many = designs.learn(np.ones((4000, 1)), np.repeat([1.0, 0.0], [3000, 1000]))
    assert many.mean[0] == pytest.approx(math.log(3), abs=0.01)


def test_evidence_finds_the_ridge() -> None:
    """Answers that depend on nothing want a strong prior, clear ones a weak one."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(200, 5))
    clear = (directions[:, 0] > 0).astype(float)
    assert designs.learn(directions, clear).ridge == min(designs.RIDGES)
    assert designs.learn(directions, rng.integers(2, size=200).astype(float)).ridge == max(designs.RIDGES)


@pytest.mark.system("s001-039")
def test_errors_choose_what_is_asked() -> None:
    """p = .7 asks 3 similar questions, .99 one, ½ and less 8. What several errors name comes first."""
    assert [designs.neighbours(p) for p in (0.7, 0.99, 0.5, 0.1)] == [3, 1, 8, 8]
    angles = np.deg2rad([0, 20, 40, 170, 180, 190, 90, 270, 100, 260, 80, 280])
    groups = [np.array([[math.cos(a), math.sin(a)]] * 2) for a in angles]
    asked = [np.array([[math.cos(a), math.sin(a)]] * 2) for a in np.deg2rad([2, 178])]
    found = designs.order_by_errors(groups, asked, [0.99, 0.7])
    assert sorted(found) == [0, 3, 4, 5]
    assert designs.order_by_errors(groups, [asked[0], asked[0]], [0.99, 0.7])[0] == 0
    assert len(designs.order_by_errors(groups, asked[:1], [0.2])) == 8
    assert designs.order_by_errors(groups, [], []) == []


def test_choices_become_directions() -> None:
    """The chosen one against each other; a tie is ½."""
    group = np.array([[0.0], [1.0], [3.0]])
    directions, targets = designs.compared([group, group[:2]], [2, None], size=1)
    assert directions.ravel().tolist() == [3, 2, -1]
    assert targets.tolist() == [1, 1, 0.5]


def test_the_last_layer_asks_what_answers_left_open() -> None:
    """After thirty answers about the first axis, the second comes first."""
    first, second = np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 0.0]])
    asked = [first] * 30
    assert designs.order_by_last_layer([first, second, first], asked, [0] * 30)[0] == 1
    assert designs.order_by_last_layer([], asked, [0] * 30) == []
    assert designs.order_by_design([first, second, first], asked) == [1, 0, 2]
    assert designs.order_by_design([], asked) == []
