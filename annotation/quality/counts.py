"""Sufficient statistics: what one comparison adds to its project's counts.

`contributions` is a pure function of a unit, so a comparison that changed is counted again by taking away
what it gave before and adding what it gives now. Everything that pages show of agreement, annotators and
biases comes from these sums; `tests/annotation/quality` shows that counting step by step, with answers
taken back, ends with the same sums as counting once from the start.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from annotation.quality.agreement import Value
from annotation.quality.intervals import Floats
from annotation.quality.votes import BOTH_BAD, TIE, Unit, Vote, family_of, pairwise, question_of

Key = tuple[Value, ...]
REPLICATES: Final = 200  # of the bootstrap over comparisons that the leaderboard's counts carry
SECONDS_PER_E: Final = 20  # bins of time to each factor of e, so a bin is 5 % wide
LENGTH_BINS: Final = 5  # to each side, of the relative difference in length
REGULAR: Final = "regular"


def contributions(unit: Unit) -> Counter[Key]:
    """What one comparison adds to its project:

    ("pattern", question, value, n, value, n, …)   units that were answered so, two judgements or more
    ("annotator", annotator, name)                 sums over one annotator's regular judgements
    ("pair", question, first, second, value, value) answers of two annotators to the same thing
    ("time", annotator, bin)                       regular judgements by their time
    """
    regular = sorted((vote for vote in unit.votes if vote.kind == REGULAR), key=lambda vote: vote.annotator)
    found: Counter[Key] = Counter()
    _add_agreement(found, regular, unit.main)
    for vote in regular:
        _add_own(found, vote, unit)
    _add_checks(found, unit, regular)
    return found


def _add_agreement(found: Counter[Key], regular: Sequence[Vote], main: str) -> None:
    """Patterns and pairs of each question; and how far each annotator agrees with the others."""
    names = dict.fromkeys(name for vote in regular for name in vote.values)
    shares: dict[int, list[float]] = {}
    for name in names:
        given = [(vote.annotator, vote.values[name]) for vote in regular if name in vote.values]
        if len(given) < 2:
            continue
        times = Counter(value for _, value in given)
        pattern = sorted(times.items(), key=lambda item: (isinstance(item[0], str), item[0]))
        question = question_of(name)
        found[("pattern", question, *(part for item in pattern for part in item))] += 1
        if family_of(name) not in (main, "strength"):
            continue
        for (a, x), (b, y) in combinations(given, 2):
            found["pair", question, a, b, x, y] += 1
        if family_of(name) == main:
            for annotator, value in given:
                shares.setdefault(annotator, []).append((times[value] - 1) / (len(given) - 1))
    for annotator, parts in shares.items():
        found["annotator", annotator, "compared"] += 1
        found["annotator", annotator, "agreed"] += sum(parts) / len(parts)  # type: ignore[assignment]


def _add_own(found: Counter[Key], vote: Vote, unit: Unit) -> None:
    """How many, how fast, which side, the longer or the shorter."""
    who, choice, count = vote.annotator, vote.values.get("choice"), len(unit.sources)
    found["annotator", who, "judgements"] += 1
    if choice in (TIE, BOTH_BAD):
        found["annotator", who, str(choice)] += 1
    if choice is not None:
        found["annotator", who, "choices"] += 1
    if vote.position is not None:
        found["annotator", who, f"position:{count}:{vote.position}"] += 1
    lengths = unit.lengths
    if count == 2 and isinstance(choice, int) and None not in lengths and lengths[0] != lengths[1]:
        longer = 0 if lengths[0] > lengths[1] else 1  # type: ignore[operator]
        found["annotator", who, "longer" if choice == longer else "shorter"] += 1
    if vote.seconds is not None:
        found["time", who, time_bin(vote.seconds)] += 1


def _add_checks(found: Counter[Key], unit: Unit, regular: Sequence[Vote]) -> None:
    """Answers whose right one is known, and one's own comparison seen a second time."""
    own = {vote.annotator: vote for vote in regular}
    for vote in unit.votes:
        if vote.kind == "gold" and unit.gold:
            right = all(vote.values.get(name) == value for name, value in unit.gold.items())
            found["annotator", vote.annotator, "gold"] += 1
            found["annotator", vote.annotator, "gold_right"] += right
        elif vote.kind == "repeat" and vote.annotator in own:
            same = _same_share(vote, own[vote.annotator].values, unit.main)
            if same is not None:
                found["annotator", vote.annotator, "repeats"] += 1
                found["annotator", vote.annotator, "repeats_same"] += same  # type: ignore[assignment]


def _same_share(vote: Vote, reference: dict[str, int | float | str], main: str) -> float | None:
    """The share of the main question's values that equal the reference; None if there is none in both."""
    shared = [name for name in vote.values if name in reference and family_of(name) == main]
    return sum(vote.values[name] == reference[name] for name in shared) / len(shared) if shared else None


def time_bin(seconds: float) -> int:
    return round(SECONDS_PER_E * math.log(max(seconds, 0.01)))


def time_quantiles(bins: dict[int, float], shares: Sequence[float]) -> list[float] | None:
    """Quantiles of time in seconds, to within half a bin (2.5 %); the lower of two middle values."""
    total = sum(bins.values())
    if total <= 0:
        return None
    order = sorted(bin_ for bin_, n in bins.items() if n > 0)
    reached = np.cumsum([bins[bin_] for bin_ in order])
    places = [int(np.searchsorted(reached, share * total)) for share in shares]
    return [math.exp(order[min(place, len(order) - 1)] / SECONDS_PER_E) for place in places]


def source_results(unit: Unit) -> Counter[Key]:
    """Regular results between sources: (first, second, outcome, length bin), first < second by name.

    `outcome` is "won" or "lost" by the first, or "tied"; the bin is the first's relative excess in length,
    from −LENGTH_BINS (all of the text is the second's) to LENGTH_BINS; 0 too where lengths are not known.
    """
    found: Counter[Key] = Counter()
    count = len(unit.sources)
    for vote in unit.votes:
        if vote.kind == REGULAR:
            for i, j, win in pairwise(vote.values, count):
                if i < count and j < count:
                    _add_result(found, unit, i, j, win)
    return found


def _add_result(found: Counter[Key], unit: Unit, i: int, j: int, win: float) -> None:
    first, second = unit.sources[i], unit.sources[j]
    if not first or not second or first == second:
        return
    if first > second:
        first, second, i, j, win = second, first, j, i, 1 - win
    outcome = "tied" if win == 0.5 else "won" if win > 0.5 else "lost"
    found[first, second, outcome, length_bin(unit.lengths[i], unit.lengths[j])] += 1


def length_bin(first: int | None, second: int | None) -> int:
    if first is None or second is None or first + second == 0:
        return 0
    return round(LENGTH_BINS * (first - second) / (first + second))


def poisson_weights(comparisons: Sequence[int], replicates: int = REPLICATES) -> Floats:
    """How often each comparison counts in each replicate of the bootstrap, (C, replicates).

    Poisson(1) instead of a multinomial draw (Chamandy et al., "Estimating uncertainty for massive data
    streams", 2012), from a hash of the comparison's number and the replicate's: a comparison that is counted
    again, or taken away, has the weights that it had before.
    """
    ids = np.asarray(comparisons, dtype=np.uint64)[:, None]
    numbers = np.arange(1, replicates + 1, dtype=np.uint64)
    mixed = _splitmix64(np.asarray(ids * np.uint64(0x9E3779B97F4A7C15) + numbers, dtype=np.uint64))
    uniform = (mixed >> np.uint64(11)).astype(float) / 2.0**53
    reached = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])
    return np.searchsorted(reached, uniform).astype(float)


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014); wraps around by intent."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def weighted_results(
    changes: Sequence[tuple[int, Counter[Key]]], replicates: int = REPLICATES
) -> Iterator[tuple[Key, Floats]]:
    """Sums of changes of `source_results`, (1 + replicates,) each: as counted, then in each replicate.

    `changes` are pairs of a comparison's number and what changed about it.
    """
    rows: dict[Key, Floats] = {}
    weights = poisson_weights([comparison for comparison, _ in changes], replicates)
    for weight, (_, change) in zip(weights, changes, strict=True):
        for key, n in change.items():
            if n:
                row = rows.setdefault(key, np.zeros(1 + replicates))
                row[0] += n
                row[1:] += n * weight
    yield from rows.items()
