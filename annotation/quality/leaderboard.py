"""Strengths of sources by Bradley–Terry with ties, their intervals, and who beats whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from annotation.quality.counts import LENGTH_BINS, Key
from annotation.quality.intervals import Floats, Interval, percentiles

POINTS: Final = 400 / np.log(10)  # a source 400 points above another wins ten times as often as it loses
CENTRE: Final = 1000.0
PRIOR_SD: Final = 5.0  # of log-strengths: what never loses still gets a finite number
STEPS: Final = 60


@dataclass(frozen=True)
class Standing:
    source: str
    points: Interval
    rank: int
    rank_best: int
    rank_worst: int
    judgements: int
    won: float
    tied: float
    lost: float


@dataclass(frozen=True)
class Leaderboard:
    """`table[i][j]` is how source i did against j: (won, tied, lost). `tie_rate` is of two equal sources.

    `length_effect` is how many points a source gains by being all of the text (1) instead of half (0); None
    where length was not controlled for.
    """

    standings: list[Standing]
    table: list[list[tuple[int, int, int]]]
    tie_rate: float
    length_effect: Interval | None


@dataclass(frozen=True)
class Design:
    """Cells (C,) of results between sources: which two, the relative excess in length of the first."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    excess: Floats
    sources: list[str]


def tabulate(results: Mapping[Key, Floats]) -> tuple[Design, Floats]:
    """Cells, and how often each ended won, tied or lost for the first: (R, C, 3), R as in the rows."""
    sources = sorted({str(name) for first, second, *_ in results for name in (first, second)})
    index = {name: i for i, name in enumerate(sources)}
    cells = sorted({(str(first), str(second), int(bin_)) for first, second, _, bin_ in results})
    place = {cell: i for i, cell in enumerate(cells)}
    rows = len(next(iter(results.values()))) if results else 1
    counts = np.zeros((rows, len(cells), 3))
    for (first, second, outcome, bin_), row in results.items():
        cell = place[str(first), str(second), int(bin_)]
        counts[:, cell, ("won", "tied", "lost").index(str(outcome))] += row
    design = Design(
        first=np.array([index[first] for first, _, _ in cells], dtype=np.int64),
        second=np.array([index[second] for _, second, _ in cells], dtype=np.int64),
        excess=np.array([bin_ / LENGTH_BINS for _, _, bin_ in cells], dtype=float),
        sources=sources,
    )
    return design, counts


def fit_davidson(design: Design, counts: Floats, *, by_length: bool, start: Floats | None = None) -> Floats:
    """Davidson's model (JASA 65, 1970, 317-328, eq. 2.3), by Newton's method.

    P(i beats j) : P(tie) : P(j beats i) = π_i : ν √(π_i π_j) : π_j. With θ = log π and, where the result is
    to be free of length, θ_i − θ_j + β x for the relative excess x in length (the "style control" of
    Chatbot Arena). counts (C, 3): won, tied, lost. Returns (S + 2,): θ centred on 0, log ν, β (0 if not
    by_length). Normal priors with standard deviation PRIOR_SD keep every number finite.
    """
    size = len(design.sources)
    columns = size + 2
    x = np.zeros((len(design.first), columns))
    rows = np.arange(len(design.first))
    x[rows, design.first] += 1
    x[rows, design.second] -= 1
    if by_length:
        x[:, size + 1] = design.excess
    won, tied, lost = counts.T
    total = won + tied + lost
    b = np.zeros(columns) if start is None else start.copy()
    precision = np.full(columns, PRIOR_SD**-2)
    for _ in range(STEPS):
        half = np.clip(x @ b / 2, -350, 350)
        log_nu = b[size]
        top = np.maximum(np.abs(half), log_nu)
        up, even, down = np.exp(half - top), np.exp(log_nu - top), np.exp(-half - top)
        p = np.stack([up, np.broadcast_to(even, up.shape), down]) / (up + even + down)
        slope = (won - lost) / 2 - total * (p[0] - p[2]) / 2  # by the difference of log-strengths
        curve = total * ((p[0] + p[2]) - (p[0] - p[2]) ** 2) / 4
        cross = -total * (p[0] - p[2]) * p[1] / 2
        gradient = x.T @ slope - precision * b
        gradient[size] += (tied - total * p[1]).sum()
        hessian = (x * curve[:, None]).T @ x
        hessian[size, :] += cross @ x
        hessian[:, size] += cross @ x
        hessian[size, size] += (total * p[1] * (1 - p[1])).sum()
        hessian[np.diag_indices(columns)] += precision
        step = np.linalg.solve(hessian, gradient)
        b = b + step / max(1.0, float(np.abs(step).max()) / 2)
        if np.abs(step).max() < 1e-8:
            break
    b[:size] -= b[:size].mean()
    return b


def leaderboard(results: Mapping[Key, Floats], *, by_length: bool = False) -> Leaderboard | None:
    """Points with 95 % bootstrap intervals over comparisons. None without results between two sources.

    `results` as `counts.weighted_results` gives them: each row as counted, then in each replicate.
    """
    results = {key: row for key, row in results.items() if row[0] > 0}
    if not results:
        return None
    design, counts = tabulate(results)
    if not by_length:
        design, counts = _without_length(design, counts)
    size = len(design.sources)
    best = fit_davidson(design, counts[0], by_length=by_length)
    fits = np.array([fit_davidson(design, row, by_length=by_length, start=best) for row in counts[1:]])
    points, resampled = CENTRE + POINTS * best[:size], CENTRE + POINTS * fits[:, :size]
    ranks = 1 + (-fits[:, :size]).argsort(axis=1).argsort(axis=1)
    table = _table(design, counts[0])
    standings = []
    for place, i in enumerate(np.argsort(-points, kind="stable")):
        won, tied, lost = (int(sum(cell[part] for cell in table[i])) for part in range(3))
        low, high = np.quantile(ranks[:, i], [0.025, 0.975], method="nearest")
        interval = percentiles(points[i], resampled[:, i], won + tied + lost)
        standings.append(
            Standing(
                design.sources[i],
                interval,
                place + 1,
                int(low),
                int(high),
                won + tied + lost,
                won,
                tied,
                lost,
            )
        )
    order = [design.sources.index(standing.source) for standing in standings]
    nu = float(np.exp(best[size]))
    effect = percentiles(POINTS * best[-1], POINTS * fits[:, -1], counts[0].sum()) if by_length else None
    return Leaderboard(standings, [[table[i][j] for j in order] for i in order], nu / (2 + nu), effect)


def _without_length(design: Design, counts: Floats) -> tuple[Design, Floats]:
    """The same with one cell for each two sources: the fit is the same and smaller."""
    pairs, place = np.unique(np.stack([design.first, design.second]), axis=1, return_inverse=True)
    merged = np.zeros((len(counts), pairs.shape[1], 3))
    for cell, target in enumerate(place.ravel()):
        merged[:, target] += counts[:, cell]
    return Design(pairs[0], pairs[1], np.zeros(pairs.shape[1]), design.sources), merged


def _table(design: Design, counts: Floats) -> list[list[tuple[int, int, int]]]:
    size = len(design.sources)
    sums = np.zeros((size, size, 3), dtype=int)
    for first, second, (won, tied, lost) in zip(design.first, design.second, counts.astype(int), strict=True):
        sums[first, second] += (won, tied, lost)
        sums[second, first] += (lost, tied, won)
    return [[(int(cell[0]), int(cell[1]), int(cell[2])) for cell in row] for row in sums]


def as_data(board: Leaderboard | None) -> dict[str, Any] | None:
    """As the API and the pages have it."""
    if board is None:
        return None
    names: Sequence[str] = ("source", "rank", "rank_best", "rank_worst", "judgements", "won", "tied", "lost")
    rows = [
        {name: getattr(row, name) for name in names} | {"points": row.points.as_data()}
        for row in board.standings
    ]
    effect = board.length_effect.as_data() if board.length_effect else None
    return {"rows": rows, "table": board.table, "tie_rate": board.tie_rate, "length_effect": effect}
