"""Agreement coefficients by hand, against published examples, and against the krippendorff package."""

from collections import Counter

import krippendorff
import numpy as np
import pytest

from annotation.quality.agreement import fleiss_kappa, krippendorff_alpha, raw_agreement, summarise, tabulate

NAN = np.nan


def patterns_of(units) -> Counter:
    return Counter(tuple(sorted(Counter(unit).items())) for unit in units)


def alpha_of(units, level):
    counts, values, times = tabulate(patterns_of(units))
    return krippendorff_alpha(counts, values, times[None, :], level)[0]


# Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), section C: four observers, twelve units.
DATA_C = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]
# Wikipedia's "Krippendorff's alpha", after his book: three coders, fifteen units: 0.691 and 0.811.
DATA_BOOK = [
    [NAN, NAN, NAN, NAN, NAN, 3, 4, 1, 2, 1, 1, 3, 3, NAN, 3],
    [1, NAN, 2, 1, 3, 3, 4, 3, NAN, NAN, NAN, NAN, NAN, NAN, NAN],
    [NAN, NAN, 2, 1, 3, 4, 4, NAN, 2, 1, 1, 3, 3, NAN, 4],
]


def units_of(table):
    return [[int(value) for value in unit if not np.isnan(value)] for unit in np.array(table).T]


@pytest.mark.parametrize(
    ("table", "level", "published"),
    [
        (DATA_C, "nominal", 0.743),
        (DATA_C, "ordinal", 0.815),
        (DATA_C, "interval", 0.849),
        (DATA_BOOK, "nominal", 0.691),
        (DATA_BOOK, "interval", 0.811),
    ],
)
def test_published_alphas(table, level, published):
    assert alpha_of(units_of(table), level) == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_equals_the_package(level):
    generator = np.random.default_rng(0)
    for _ in range(20):
        table = generator.integers(1, 6, size=(4, 30)).astype(float)
        table[generator.random(table.shape) < 0.3] = NAN
        expected = krippendorff.alpha(reliability_data=table, level_of_measurement=level)
        assert alpha_of(units_of(table), level) == pytest.approx(expected, abs=1e-12)


def test_alpha_of_a_resample_is_that_of_the_repeated_units():
    """Each row of `times` stands for a data set of its own, marginals and ordinal metric included."""
    units = units_of(DATA_C)
    patterns = patterns_of(units)
    counts, values, _ = tabulate(patterns)
    kept = [pattern for pattern in sorted(patterns, key=repr) if sum(n for _, n in pattern) >= 2]
    times = np.random.default_rng(1).integers(0, 3, size=(6, len(kept))).astype(float)
    for level in ("nominal", "ordinal", "interval"):
        together = krippendorff_alpha(counts, values, times, level)
        for row, found in zip(times, together, strict=True):
            repeated = Counter({pattern: int(n) for pattern, n in zip(kept, row, strict=True)})
            own_counts, own_values, own_times = tabulate(repeated)
            alone = krippendorff_alpha(own_counts, own_values, own_times[None, :], level)[0]
            assert found == pytest.approx(alone, abs=1e-12)


def test_summary_by_hand():
    """Three units, judgements 0 0 | 0 0 1 | 1 tie. Pairs that agree: 1 of 1, 1 of 3, 0 of 1: 2 of 5.

    Votes: 4 for 0, 2 for 1, 1 tie, so chance is (12 + 2 + 0) / 42 = 1/3.
    Coincidences: 2, then 2 / 2 = 1, then 0: alpha = 1 − 6 (7 − 3) / (49 − 21) = 1/7.
    Fleiss: P̄ = (1 + 1/3 + 0) / 3 = 4/9, P̄_e = (16 + 4 + 1) / 49 = 3/7: (4/9 − 3/7) / (4/7) = 1/36.
    """
    found = summarise(
        patterns_of([[0, 0], [0, 0, 1]]) + Counter({((1, 1), ("tie", 1)): 1, ((0, 1),): 9}), "nominal"
    )
    assert (found.units, found.judgements, found.pairs) == (3, 7, 5)
    assert found.raw.value == pytest.approx(2 / 5)
    assert found.chance == pytest.approx(1 / 3)
    assert found.alpha.value == pytest.approx(1 / 7)
    assert found.fleiss.value == pytest.approx(1 / 36)
    assert found.raw.low <= found.raw.value <= found.raw.high


def test_fleiss_1971():
    """The example of Fleiss' paper as Wikipedia has it: ten subjects, fourteen raters: κ = 0.210."""
    counts = np.array(
        [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ],
        dtype=float,
    )
    assert fleiss_kappa(counts, np.ones((1, 10)))[0] == pytest.approx(0.210, abs=5e-4)


def test_nothing_to_tell_from_chance():
    assert summarise(Counter({((0, 1),): 5}), "nominal") is None
    always = summarise(Counter({((0, 3),): 5}), "nominal")
    assert (always.raw.value, always.alpha, always.fleiss) == (1.0, None, None)


def test_words_have_no_order():
    with pytest.raises(ValueError, match="needs numbers"):
        summarise(Counter({((0, 1), ("tie", 1)): 2}), "ordinal")


def test_the_interval_covers():
    """Of 200 projects of 60 comparisons with a true agreement of 0.7, about 95 % are covered."""
    generator, covered = np.random.default_rng(1), 0
    counts = np.array([[2.0, 0.0], [1.0, 1.0]])
    for _ in range(200):
        times = generator.multinomial(60, [0.7, 0.3])
        resampled = generator.multinomial(60, times / 60, size=500).astype(float)
        low, high = np.quantile(raw_agreement(counts, resampled), [0.025, 0.975])
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / 200 <= 0.99
