"""What benchmarks of reward models measure, as functions of plain scores. Torch-free; every list is one row.

Scores are those of one prompt's candidates; ``right`` are the indices of the right ones.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean


def best_of_credit(scores: Sequence[float], right: Sequence[int]) -> float:
    """RewardBench 2 (arXiv:2506.01937): 1/m if the right answer is among m equally high ones, else 0.

    A constant scorer gets 1/k, as chance does. Of several right answers one among the highest is enough.
    """
    highest = [at for at, score in enumerate(scores) if score == max(scores)]
    return sum(at in right for at in highest) / len(highest)


@dataclass(frozen=True)
class Ties:
    """RewardBench 2: questions with several right answers (``tied``) and with one (``reference``).

    ``preferred``: share of questions whose worst right answer leads the best wrong one by more than right
    ones differ; ``preferred_hard``: so does the one right answer of its reference; ``margin`` breaks ties.
    """

    tied: float
    reference: float
    preferred: float
    preferred_hard: float
    margin: float

    @property
    def score(self) -> float:
        """The benchmark's weighted sum."""
        return (
            0.30 * self.tied
            + 0.30 * self.reference
            + 0.20 * self.preferred
            + 0.20 * self.preferred_hard
            + 0.01 * self.margin
        )

    def as_data(self) -> dict[str, float]:
        return {**asdict(self), "score": self.score}


def gap(scores: Sequence[float], right: Sequence[int]) -> float:
    """Worst right score minus best wrong one."""
    wrong = [score for at, score in enumerate(scores) if at not in right]
    return min(scores[at] for at in right) - max(wrong)


def spread(scores: Sequence[float], right: Sequence[int]) -> float:
    """Best right score minus worst right one."""
    own = [scores[at] for at in right]
    return max(own) - min(own)


Scored = tuple[Sequence[float], Sequence[int]]


def ties_of(tied: dict[str, Scored], reference: dict[str, Scored]) -> Ties | None:
    """The ties of RewardBench 2 from rows (scores, right) by question; None without a question in both."""
    both = sorted(tied.keys() & reference.keys())
    if not both:
        return None
    spreads = [spread(*tied[name]) for name in both]
    gaps = [gap(*tied[name]) for name in both]
    hard = [min(gap(*reference[name]), own) for name, own in zip(both, gaps, strict=True)]
    return Ties(
        tied=fmean(gap(*row) > 0 for row in tied.values()),
        reference=fmean(gap(*row) > 0 for row in reference.values()),
        preferred=fmean(own > width for own, width in zip(gaps, spreads, strict=True)),
        preferred_hard=fmean(own > width for own, width in zip(hard, spreads, strict=True)),
        margin=fmean(_margin(own, width) for own, width in zip(hard, spreads, strict=True)),
    )


def _margin(least: float, width: float) -> float:
    """tanh(gap / spread − 1); 0 for 0 / 0, ±1 for a spread of 0."""
    if width:
        return math.tanh(least / width - 1)
    return float((least > 0) - (least < 0))


def beats_all(scores: Sequence[float], right: int) -> bool:
    """RewardMATH (arXiv:2410.01729): the one right answer scores above every wrong one."""
    return all(scores[right] > score for at, score in enumerate(scores) if at != right)


def reciprocal_rank(scores: Sequence[float], right: int) -> float:
    """1 / rank of the right answer; equal ones stand before it, so that a constant scorer earns least."""
    return 1 / sum(score >= scores[right] for score in scores)


def consistent(own: tuple[float, float], others: tuple[float, float]) -> bool:
    """Contrast of two like prompts A and B (arXiv:2309.16155): each prefers its own response, strictly.

    ``own``: r(A, y_A) and r(B, y_B); ``others``: r(A, y_B) and r(B, y_A).
    """
    return own[0] > others[0] and own[1] > others[1]


def same_choice(choices: Sequence[int]) -> float:
    """Share of pairs of versions of one question whose highest candidate is the same."""
    pairs = list(combinations(choices, 2))
    return fmean(one == other for one, other in pairs)


def fleiss_kappa(families: Sequence[Sequence[int]]) -> float | None:
    """Fleiss' κ between the versions of each question (M-RewardBench, arXiv:2410.15522); None if all
    choices are the same, which chance explains.
    """
    every = [choice for choices in families for choice in choices]
    expected = sum((every.count(value) / len(every)) ** 2 for value in set(every))
    if expected == 1:
        return None
    return (fmean(same_choice(choices) for choices in families) - expected) / (1 - expected)


def within_correlation(rows: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float | None:
    """Pearson's correlation of two values of candidates around their prompts' means; None if one is constant.

    Within prompts, so that long answers to hard questions say nothing.
    """
    one = [value - fmean(first) for first, _ in rows for value in first]
    other = [value - fmean(second) for _, second in rows for value in second]
    product = math.sqrt(sum(value * value for value in one) * sum(value * value for value in other))
    return sum(a * b for a, b in zip(one, other, strict=True)) / product if product else None
