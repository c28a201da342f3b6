"""Cohen's kappa by hand, weighted as published, and its interval by simulation."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from annotation.quality.intervals import wilson
from annotation.quality.kappa import cohen_kappa


def test_by_hand():
    """Of 50 answers 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: p_o = 0.7, p_e = 0.5 · 0.6 + 0.5 · 0.4."""
    found = cohen_kappa(np.array([[20.0, 5.0], [10.0, 15.0]]))
    assert found.value == pytest.approx(0.4)
    assert found.low < 0.4 < found.high


@pytest.mark.parametrize(
    ("weights", "name"), [("nominal", None), ("linear", "linear"), ("quadratic", "quadratic")]
)
def test_equals_scikit_learn(weights, name):
    generator = np.random.default_rng(0)
    for _ in range(10):
        first = generator.integers(0, 5, 200)
        second = np.clip(first + generator.integers(-1, 3, 200), 0, 4)
        table = np.zeros((5, 5))
        np.add.at(table, (first, second), 1)
        expected = cohen_kappa_score(first, second, weights=name, labels=range(5))
        assert cohen_kappa(table, weights).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("weights", ["nominal", "quadratic"])
def test_the_interval_covers(weights):
    """The true kappa of a known table lies in about 95 % of the intervals of samples of 300."""
    truth = np.array([[0.3, 0.1, 0.02], [0.08, 0.2, 0.05], [0.02, 0.05, 0.18]])
    exact = cohen_kappa(truth * 1e9, weights).value
    generator, covered = np.random.default_rng(2), 0
    for _ in range(300):
        found = cohen_kappa(generator.multinomial(300, truth.ravel()).reshape(3, 3).astype(float), weights)
        covered += found.low <= exact <= found.high
    assert 0.92 <= covered / 300 <= 0.98


def test_nothing_to_compare():
    assert cohen_kappa(np.zeros((2, 2))) is None
    assert cohen_kappa(np.array([[9.0, 0.0], [0.0, 0.0]])) is None


def test_wilson_by_hand():
    """5 of 10: z²/n = 0.384; 1/2 ± 1.96 / 1.384 · sqrt(0.025 + 0.0096) = 0.5 ± 0.2634."""
    interval = wilson(5, 10)
    assert (interval.low, interval.high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    low, high = wilson(8, 10).low, wilson(8, 10).high  # (0.8 + 0.19208 ± 1.96 √(0.016 + 0.009604)) / 1.38416
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == pytest.approx(1)
    with pytest.raises(ValueError, match="at least one"):
        wilson(0, 0)


def test_position_bias_interval_covers():
    """Somebody who takes the first side with probability 0.6, 120 judgements at a time."""
    chosen = np.random.default_rng(3).binomial(120, 0.6, size=1000)
    covered = sum(interval.low <= 0.6 <= interval.high for interval in (wilson(n, 120) for n in chosen))
    assert 0.93 <= covered / 1000 <= 0.97
