"""How far people agree: raw agreement, Krippendorff's alpha and Fleiss' kappa, with bootstrap intervals.

Units with the same answers are exchangeable, so a project comes down to a few *patterns*: which values were
given how often, and how many units have that pattern. Everything here works on patterns; the intervals are
percentile bootstraps over units, because judgements of one unit are not independent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from annotation.quality.intervals import Floats, Interval, percentiles

Level = Literal["nominal", "ordinal", "interval"]
Value = int | float | str
Pattern = tuple[tuple[Value, int], ...]  # (value, how many gave it)…
RESAMPLES: Final = 2000
ORDINAL_MAX: Final = 60  # values; the ordinal metric of every resample needs a table of their pairs
CELLS: Final = 20_000_000  # of one block of resamples


@dataclass(frozen=True)
class Agreement:
    """Of one question: `pairs` of judgements within `units` that two people or more judged.

    `raw` is the share of pairs that say the same, `chance` what the same answers give at random. `alpha` and
    `fleiss` are None where everybody always says the same: nothing can then be told from chance.
    """

    units: int
    judgements: int
    pairs: int
    raw: Interval
    chance: float
    alpha: Interval | None
    fleiss: Interval | None


def summarise(
    patterns: Mapping[Pattern, float], level: Level, *, resamples: int = RESAMPLES, seed: int = 0
) -> Agreement | None:
    """Agreement from `{pattern: units}`; a pattern of one judgement says nothing. None if all are."""
    counts, values, units = tabulate(patterns)
    if not len(units):
        return None
    times = np.concatenate([units[None, :], _bootstrap(units, resamples, seed)])
    raws = raw_agreement(counts, times)
    alphas = krippendorff_alpha(counts, values, times, level)
    fleiss = fleiss_kappa(counts, times)
    votes, total = counts.sum(axis=1), float(units.sum())
    marginals = units @ counts
    n = marginals.sum()
    chance = float((marginals * (marginals - 1)).sum() / (n * (n - 1)))
    return Agreement(
        units=round(total),
        judgements=round(float(votes @ units)),
        pairs=round(float(votes * (votes - 1) / 2 @ units)),
        raw=percentiles(raws[0], raws[1:], total),
        chance=chance,
        alpha=percentiles(alphas[0], alphas[1:], total) if chance < 1 else None,
        fleiss=percentiles(fleiss[0], fleiss[1:], total) if chance < 1 else None,
    )


def tabulate(patterns: Mapping[Pattern, float]) -> tuple[Floats, list[Value], Floats]:
    """Patterns as a table: counts (U, V) of each value in each pattern, the V values, units (U,)."""
    kept = [(pattern, n) for pattern, n in patterns.items() if n > 0 and sum(c for _, c in pattern) >= 2]
    kept.sort(key=lambda item: repr(item[0]))  # a stable order, so that the same data gives the same interval
    found = {value for pattern, _ in kept for value, _ in pattern}
    values = sorted(found, key=lambda value: (isinstance(value, str), value))
    column = {value: i for i, value in enumerate(values)}
    counts = np.zeros((len(kept), len(values)))
    for row, (pattern, _) in enumerate(kept):
        for value, count in pattern:
            counts[row, column[value]] += count
    return counts, values, np.array([n for _, n in kept], dtype=float)


def raw_agreement(counts: Floats, times: Floats) -> Floats:
    """Share of pairs of judgements of one unit that say the same. counts (U, V), times (R, U); returns
    (R,).
    """
    votes = counts.sum(axis=1)
    same = (counts * (counts - 1)).sum(axis=1)
    return (times @ same) / (times @ (votes * (votes - 1)))


def krippendorff_alpha(counts: Floats, values: Sequence[Value], times: Floats, level: Level) -> Floats:
    """Krippendorff's alpha, 1 − D_o / D_e ("Computing Krippendorff's alpha-reliability", 2011, section C).

    counts (U, V): how often unit u was given value v, at least twice in all. times (R, U): how often each
    unit counts in each of R resamples. Returns (R,), NaN where all values are equal. `ordinal` and
    `interval` need numbers as values; raises ValueError otherwise.
    """
    votes = counts.sum(axis=1)
    marginals = times @ counts
    n = marginals.sum(axis=1)
    if level == "nominal":
        observed = times @ (votes - (counts * (counts - 1)).sum(axis=1) / (votes - 1))
        expected = n**2 - (marginals**2).sum(axis=1)
    else:
        if any(isinstance(value, str) for value in values):
            raise ValueError(f"{level} alpha needs numbers as values; found {values!r}")
        numbers = np.array(values, dtype=float)
        if level == "interval":
            observed, expected = _interval_disagreement(counts, numbers, times)
        else:
            observed, expected = _ordinal_disagreement(counts, times)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - (n - 1) * observed / expected, np.nan)


def _interval_disagreement(counts: Floats, numbers: Floats, times: Floats) -> tuple[Floats, Floats]:
    """Sums of δ² = (c − k)² over coincidences and over all pairs of values: by sums and sums of squares."""
    centred = numbers - numbers.mean()  # smaller numbers cancel less
    sums, squares = counts @ centred, counts @ centred**2
    votes = counts.sum(axis=1)
    observed = times @ (2 * (votes * squares - sums**2) / (votes - 1))
    marginals = times @ counts
    n = marginals.sum(axis=1)
    expected = 2 * (n * (marginals @ centred**2) - (marginals @ centred) ** 2)
    return observed, expected


def _ordinal_disagreement(counts: Floats, times: Floats) -> tuple[Floats, Floats]:
    """With the ordinal metric δ² = (Σ_{g=c}^{k} n_g − (n_c + n_k) / 2)², which each resample has for
    itself.
    """
    patterns, size = counts.shape
    if size > ORDINAL_MAX:
        raise ValueError(f"ordinal alpha over {size} values; {ORDINAL_MAX} at most, use interval")
    votes = counts.sum(axis=1)
    pairs = (counts[:, :, None] * counts[:, None, :]) / (votes - 1)[:, None, None]
    index = np.arange(size)
    pairs[:, index, index] = counts * (counts - 1) / (votes - 1)[:, None]
    flat = pairs.reshape(patterns, size * size)
    observed, expected = np.empty(len(times)), np.empty(len(times))
    block = max(1, CELLS // (size * size))
    for start in range(0, len(times), block):
        part = slice(start, start + block)
        marginals = times[part] @ counts
        centre = np.cumsum(marginals, axis=1) - marginals / 2  # δ is the distance of the values' mid-ranks
        metric = ((centre[:, :, None] - centre[:, None, :]) ** 2).reshape(-1, size * size)
        observed[part] = ((times[part] @ flat) * metric).sum(axis=1)
        outer = (marginals[:, :, None] * marginals[:, None, :]).reshape(-1, size * size)
        expected[part] = (outer * metric).sum(axis=1)
    return observed, expected


def fleiss_kappa(counts: Floats, times: Floats) -> Floats:
    """Fleiss' kappa (Psychological Bulletin 76, 1971, 378-382), (P̄ − P̄_e) / (1 − P̄_e). Returns (R,).

    P̄ is the mean over units of the share of agreeing pairs, also where units have different numbers of
    judgements; P̄_e = Σ p_v², with p_v the share of value v among all judgements.
    """
    votes = counts.sum(axis=1)
    shares = (counts * (counts - 1)).sum(axis=1) / (votes * (votes - 1))
    observed = (times @ shares) / times.sum(axis=1)
    marginals = times @ counts
    expected = ((marginals / marginals.sum(axis=1, keepdims=True)) ** 2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected < 1 - 1e-12, (observed - expected) / (1 - expected), np.nan)


def _bootstrap(units: Floats, resamples: int, seed: int) -> Floats:
    """How often each pattern occurs in each resample of the units, (R, U)."""
    total = units.sum()
    generator = np.random.default_rng(seed)
    return generator.multinomial(round(float(total)), units / total, size=resamples).astype(float)
