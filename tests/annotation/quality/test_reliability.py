"""Dawid–Skene and Crowd-BT: planted reliabilities come back; by hand; against another implementation."""

import numpy as np
import pandas as pd
import pytest
from crowdkit.aggregation import DawidSkene
from scipy.stats import spearmanr

from annotation.quality.crowd_bt import fit_crowd_bt
from annotation.quality.dawid_skene import fit_dawid_skene, label_posterior

ANNOTATORS = 20


def planted(seed, *, units=1000, overlap=5, low=0.55, high=0.97):
    """Answers to yes/no units by annotators of known reliability: arrays units, annotators, labels."""
    generator = np.random.default_rng(seed)
    reliability = generator.permutation(np.linspace(low, high, ANNOTATORS))
    unit = np.repeat(np.arange(units), overlap)
    annotator = np.concatenate([generator.choice(ANNOTATORS, overlap, replace=False) for _ in range(units)])
    truth = generator.integers(0, 2, units)
    right = generator.random(len(unit)) < reliability[annotator]
    return unit, annotator, np.where(right, truth[unit], 1 - truth[unit]), truth, reliability


@pytest.mark.parametrize("seed", range(4))
def test_dawid_skene_recovers_planted_reliabilities(seed):
    unit, annotator, label, truth, reliability = planted(seed)
    found = fit_dawid_skene(unit, annotator, label, size=(1000, ANNOTATORS, 2))
    assert spearmanr(found.reliability, reliability)[0] >= 0.9
    assert np.abs(found.reliability - reliability).mean() < 0.04
    majority = np.bincount(unit, label) > 2.5
    right = (found.posterior.argmax(axis=1) == truth).mean()
    assert right >= (majority == truth).mean()  # weighing people beats counting heads
    assert abs(found.posterior.max(axis=1).mean() - right) < 0.02  # and knows how often it is right


def test_dawid_skene_equals_crowd_kit():
    """Without pseudo-counts, from the same start, after the same number of steps."""
    unit, annotator, label, _, _ = planted(9, units=200)
    found = fit_dawid_skene(
        unit,
        annotator,
        label,
        size=(200, ANNOTATORS, 2),
        smoothing=(1e-12, 1e-12),
        max_iterations=50,
        tolerance=0,
    )
    frame = pd.DataFrame({"task": unit, "worker": annotator, "label": label})
    peer = DawidSkene(n_iter=50, tol=0).fit(frame)
    expected = peer.probas_.sort_index()[[0, 1]].to_numpy()
    np.testing.assert_allclose(found.posterior, expected, atol=1e-6)


def test_posterior_by_hand():
    """Two annotators who are right in 0.9 and 0.6: they disagree: 0.9·0.4 against 0.1·0.6, so 6 to 1."""
    confusion = np.array([[[0.9, 0.1], [0.1, 0.9]], [[0.6, 0.4], [0.4, 0.6]]])
    zero, one = np.array([0, 0]), np.array([0, 1])
    found = label_posterior(zero, one, one, confusion, np.array([0.5, 0.5]), 1)
    np.testing.assert_allclose(found, [[6 / 7, 1 / 7]])


def test_three_answers_do_not_make_an_annotator_perfect():
    units, annotators = np.repeat(np.arange(50), 2), np.tile([0, 1], 50)
    labels = np.repeat(np.arange(50) % 2, 2)
    units, annotators, labels = (
        np.append(units, [0, 1, 2]),
        np.append(annotators, [2] * 3),
        np.append(labels, [0, 1, 0]),
    )
    found = fit_dawid_skene(units, annotators, labels, size=(50, 3, 2))
    assert found.reliability[2] < found.reliability[0]


def crowd(seed, *, items=40, comparisons=3000):
    """Comparisons of items with known strengths, as in the paper: the annotator's η says who reads."""
    generator = np.random.default_rng(seed)
    scores, eta = generator.normal(0, 1.5, items), generator.permutation(np.linspace(0.5, 0.98, ANNOTATORS))
    first, second = np.array([generator.choice(items, 2, replace=False) for _ in range(comparisons)]).T
    annotator = generator.integers(0, ANNOTATORS, comparisons)
    p = 1 / (1 + np.exp(scores[second] - scores[first]))
    wins = generator.random(comparisons) < eta[annotator] * p + (1 - eta[annotator]) * (1 - p)
    return first, second, annotator, wins.astype(float), scores, eta


def test_crowd_bt_recovers_planted_reliabilities():
    found = []
    for seed in range(4):
        first, second, annotator, wins, scores, eta = crowd(seed, comparisons=8000)
        fit = fit_crowd_bt(first, second, annotator, wins, size=(40, ANNOTATORS))
        found.append(spearmanr(fit.reliability, eta)[0])
        assert spearmanr(fit.scores, scores)[0] > 0.95
    assert min(found) >= 0.9


@pytest.mark.parametrize("seed", range(4))
def test_crowd_bt_recovers_them_from_pairs_that_never_meet(seed):
    """Every comparison has candidates of its own: only people who judged the same pair tell of each other."""
    unit, annotator, label, _, reliability = planted(seed)
    found = fit_crowd_bt(
        2 * unit, 2 * unit + 1, annotator, (label == 0).astype(float), size=(2000, ANNOTATORS)
    )
    assert spearmanr(found.reliability, reliability)[0] >= 0.9


def test_crowd_bt_by_hand():
    """One annotator of fixed η → 1 and one pair won 3 : 1 is plain Bradley–Terry: log-odds ln 3, less the
    virtual item's pull: maximise 3 ln σ(d) + ln σ(−d) + 2·λ·2 ln σ terms at s = ±d/2, found by a grid."""
    first, second = np.zeros(4, dtype=int), np.ones(4, dtype=int)
    wins, annotator = np.array([1.0, 1.0, 1.0, 0.0]), np.zeros(4, dtype=int)
    fit = fit_crowd_bt(first, second, annotator, wins, size=(2, 1), virtual=0.01, eta_prior=(1e7, 1.0))
    assert fit.scores[0] - fit.scores[1] == pytest.approx(np.log(3), abs=0.02)
    assert fit.reliability[0] > 0.999


def test_crowd_bt_always_left_is_guessing():
    """Sides are random, so somebody who always presses the left key says nothing of the items."""
    first, second, annotator, wins, _, _ = crowd(7, comparisons=6000)
    side = np.random.default_rng(8).integers(0, 2, len(first))  # 0: the first item was shown left
    wins = np.where(annotator == 3, side == 0, wins).astype(float)
    fit = fit_crowd_bt(first, second, annotator, wins, size=(40, ANNOTATORS))
    assert abs(fit.reliability[3] - 0.5) < 0.12
