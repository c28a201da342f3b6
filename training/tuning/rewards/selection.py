"""Which candidates to keep once they are scored. Plain numbers in, indices out; torch-free."""

import math
import random
from collections.abc import Sequence


def best_of(scores: Sequence[float]) -> int:
    """The best score's index, the first of equals: best-of-n, and RAFT's local rule (arXiv:2304.06767)."""
    return max(range(len(scores)), key=lambda index: scores[index])


def best_share(scores: Sequence[Sequence[float]], share: float) -> list[tuple[int, int]]:
    """(prompt, candidate) of the best ``share`` of all candidates, best first: RAFT's rule across prompts.

    Prompts compete: it needs scores that are comparable between prompts. At least one is kept.
    """
    flat = [(row, at) for row, own in enumerate(scores) for at in range(len(own))]
    ordered = sorted(flat, key=lambda place: -scores[place[0]][place[1]])
    return ordered[: max(1, round(share * len(flat)))]


def best_and_worst(scores: Sequence[float]) -> tuple[int, int] | None:
    """(argmax, argmin), or None where all are equal (arXiv:2405.07863)."""
    best = best_of(scores)
    worst = min(range(len(scores)), key=lambda index: scores[index])
    return None if scores[best] == scores[worst] else (best, worst)


def acceptance(score: float, most: float, *, beta: float) -> float:
    """exp((r − r_max) / β): the probability to accept a candidate (arXiv:2309.06657, Algorithm 1)."""
    return math.exp(min(0.0, (score - most) / beta))


def rejection_sample(
    scores: Sequence[float], *, keep: int, beta: float, generator: random.Random
) -> list[int]:
    """Statistical rejection sampling (arXiv:2309.06657, Algorithm 1): indices in the order of acceptance.

    Passes over the candidates that are left, each accepted with ``acceptance`` under the highest score left
    at the pass's start, without replacement, until ``keep`` are accepted or none is left.
    """
    accepted: list[int] = []
    left = list(range(len(scores)))
    while left and len(accepted) < keep:
        most = max(scores[index] for index in left)
        for index in list(left):
            if generator.random() < acceptance(scores[index], most, beta=beta):
                accepted.append(index)
                left.remove(index)
                if len(accepted) == keep:
                    break
    return accepted


def segment_threshold(start: float, goal: float, *, tokens: int, horizon: int) -> float:
    """τ(n) = min(r*, r_0 + n (r* − r_0) / N): what a prefix of n tokens shall score (arXiv:2406.16306).

    ``start`` is r_0 = (1 − α) r(prompt) + α r*, see ``segment_start``; ``horizon`` is N.
    """
    return min(goal, start + tokens * (goal - start) / horizon)


def segment_start(prompt_score: float, goal: float, *, alpha: float) -> float:
    """r_0 = (1 − α) r(prompt) + α r* (arXiv:2406.16306)."""
    return (1 - alpha) * prompt_score + alpha * goal
