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


def binary_information(probabilities: Sequence[float]) -> float:
    """BALD of one pair: H(mean_t p_t) − mean_t H(p_t) in nats, over passes or members (arXiv:2409.11212)."""
    mean = sum(probabilities) / len(probabilities)
    return max(0.0, _entropy(mean) - sum(map(_entropy, probabilities)) / len(probabilities))


def _entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def sure_pairs(margins: Sequence[Sequence[float]], *, share: float, generator: random.Random) -> list[int]:
    """Which pairs to train on, of each the members' margins of the better answer (arXiv:2409.11212).

    A pair that most members see the other way round is dropped. ``share`` of the others is drawn without
    replacement, each with a weight of 1 − BALD. A pair about which all are equally unsure has BALD 0: ties
    are not filtered.
    """
    voted = [at for at, own in enumerate(margins) if 2 * sum(margin > 0 for margin in own) > len(own)]
    chances = {at: [1 / (1 + math.exp(-max(-700.0, margin))) for margin in margins[at]] for at in voted}
    # The largest of u^(1 / weight) are a draw without replacement by weight (Efraimidis and Spirakis, 2006).
    keys = {at: generator.random() ** (1 / (1 - binary_information(own))) for at, own in chances.items()}
    kept = sorted(voted, key=lambda at: -keys[at])[: math.ceil(share * len(voted))]
    return sorted(kept)


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
