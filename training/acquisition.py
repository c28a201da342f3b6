"""What to ask next: how much an answer about each group would teach a reward ensemble.

An ensemble's members agree where the data decides and differ where it does not. All functions read the
members' scores of a group's candidates, an array (M, K) for M members and K candidates, in float64; the
probability that a member gives to candidate i being chosen is softmax(scores)_i (Bradley-Terry for two,
Luce's choice rule for more).
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, expit, log_softmax, softmax

Floats = NDArray[np.float64]
REDUNDANT: Final = 1e-12  # nats: what is left of a gain when the queue has asked the same already


def uncertainty(scores: Floats) -> float:
    """H(mean_m p_m) in nats: how open the choice is. A tie is open and teaches nothing."""
    return float(entr(softmax(scores, axis=1).mean(axis=0)).sum())


def information(scores: Floats) -> float:
    """H(mean_m p_m) - mean_m H(p_m) in nats, what an answer tells about which member is right.

    Bayesian active learning by disagreement (arXiv:1112.5745); of pairs under dropout: arXiv:2409.11212. Zero
    where all members agree, also on a tie.
    """
    log_p = log_softmax(scores, axis=1)
    own = -(np.exp(log_p) * log_p).sum(axis=1).mean()
    return max(0.0, uncertainty(scores) - float(own))


def disagreement(scores: Floats) -> float:
    """Standard deviation over members (divided by M) of the difference of two candidates' scores, the largest
    of all pairs of candidates."""
    gaps = scores[:, :, None] - scores[:, None, :]
    return float(gaps.std(axis=0).max())


def expected_difference(margins: Floats) -> float:
    """E|d - d'| over two different members drawn at random, for the margins (M,) of one pair.

    Randomised preference-based reinforcement learning asks where this exceeds a threshold
    (arXiv:2310.14554); of draws from N(m, σ²) it is 2σ/√π.
    """
    members = len(margins)
    if members < 2:
        return 0.0
    return float(np.abs(margins[:, None] - margins[None, :]).sum() / (members * (members - 1)))


def greedy_design(directions: Floats, noise: Floats, *, count: int | None = None) -> tuple[list[int], Floats]:
    """An order in which each question is the one that the earlier ones left the most open, and its gain.

    directions: (N, D), the difference of the two candidates' features; the margin is directions · θ with
    θ ~ N(0, I). noise: (N,), the variance with which an answer shows the
    margin. Gain is ½ log(1 + x'Σx / noise) in nats; after each choice Σ shrinks by the answer to come, which
    no label is needed for (experimental design before labels, arXiv:2305.18505). Returns the first ``count``
    (all, if None), the gains (N,) at the moment of choice; of what was not chosen the gain that is left.
    """
    size = len(directions)
    sigma = np.eye(directions.shape[1])
    variance = (directions**2).sum(axis=1)
    gains = np.zeros(size)
    chosen: list[int] = []
    is_open = np.ones(size, dtype=bool)
    for _ in range(size if count is None else min(count, size)):
        current = 0.5 * np.log1p(np.maximum(variance, 0) / noise)
        best = int(np.argmax(np.where(is_open, current, -np.inf)))
        gains[best] = current[best]
        if current[best] < REDUNDANT:
            break
        chosen.append(best)
        is_open[best] = False
        seen = sigma @ directions[best]
        shrink = noise[best] + directions[best] @ seen
        sigma -= np.outer(seen, seen) / shrink
        variance -= (directions @ seen) ** 2 / shrink
    gains[is_open] = 0.5 * np.log1p(np.maximum(variance[is_open], 0) / noise[is_open])
    return chosen, gains


def greedy_variance(
    directions: Floats, noise: Floats, *, targets: Floats, weights: Floats, count: int | None = None
) -> tuple[list[int], Floats]:
    """`greedy_design` for answers that are predicted: what lowers Σ_j w_j Var(target_j · θ) the most.

    targets: (T, D), the pairs whose margins are to be known; weights: (T,). Gain is x'ΣAΣx / (noise + x'Σx)
    with A = Σ_j w_j target_j target_j'. With w = (p(1 - p))² of a logistic choice that is A-optimality of its
    probabilities (Schein and Ungar, 2004, technical report 2 of the University of Pennsylvania).
    """
    sigma = np.eye(directions.shape[1])
    wanted = (targets * weights[:, None]).T @ targets
    variance = (directions**2).sum(axis=1)
    shown = ((directions @ wanted) * directions).sum(axis=1)
    gains = np.zeros(len(directions))
    chosen: list[int] = []
    is_open = np.ones(len(directions), dtype=bool)
    for _ in range(min(len(directions), len(directions) if count is None else count)):
        current = shown / (noise + variance)
        best = int(np.argmax(np.where(is_open, current, -np.inf)))
        gains[best] = current[best]
        chosen.append(best)
        is_open[best] = False
        seen = sigma @ directions[best]
        seen /= np.sqrt(noise[best] + directions[best] @ seen)
        along, across = directions @ seen, directions @ (sigma @ (wanted @ seen))
        shown = np.maximum(shown + along * (along * float(seen @ wanted @ seen) - 2 * across), 0)
        variance = np.maximum(variance - along**2, 0)
        sigma -= np.outer(seen, seen)
    gains[is_open] = (shown / (noise + variance))[is_open]
    return chosen, gains


def batch_information(scores: Sequence[Floats], *, count: int | None = None) -> tuple[list[int], Floats]:
    """`greedy_design` for an ensemble: an order that does not ask nearly the same question again and again.

    The margin of each group's two best candidates has the members' covariance with all other margins, and an
    answer of probability p shows it with variance 1 / p(1 - p), the logistic likelihood's information.
    """
    margins = np.stack([best_margin(group) for group in scores])
    members = margins.shape[1]
    share = np.clip(expit(margins).mean(axis=1), 1e-3, 1 - 1e-3)
    centred = (margins - margins.mean(axis=1, keepdims=True)) / np.sqrt(max(members - 1, 1))
    return greedy_design(centred, 1 / (share * (1 - share)), count=count)


def best_margin(scores: Floats) -> Floats:
    """Every member's margin (M,) between the two candidates that the ensemble's mean has on top."""
    first, second = np.argsort(-scores.mean(axis=0), kind="stable")[:2]
    return np.asarray(scores[:, first] - scores[:, second])


def _one_by_one(measure: Callable[[Floats], float]) -> Callable[[Sequence[Floats]], Floats]:
    return lambda scores: np.array([measure(group) for group in scores])


def _batch_gains(scores: Sequence[Floats]) -> Floats:
    """The gain of each group; the greedy order ranks those chosen, and what is left follows."""
    chosen, gains = batch_information(scores, count=MOST_IN_ORDER)
    values = gains - gains.max() - 1  # everything that was not chosen, below zero
    values[chosen] = np.arange(len(chosen), 0, -1)
    return np.asarray(values)


MOST_IN_ORDER: Final = 2000  # questions that are put in order together; a queue is scored again before
CRITERIA: Final[dict[str, Callable[[Sequence[Floats]], Floats]]] = {
    "batch_information": _batch_gains,
    "information": _one_by_one(information),
    "disagreement": _one_by_one(disagreement),
    "uncertainty": _one_by_one(uncertainty),
}


def order(scores: Sequence[Floats], *, by: str) -> list[int]:
    """Indices of the groups, what teaches most first; equals stay in their order.

    Raises KeyError for a criterion that there is not.
    """
    if not scores:
        return []
    return [int(index) for index in np.argsort(-CRITERIA[by](scores), kind="stable")]
