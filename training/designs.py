"""What to ask next by the features of the answers: designs for a linear reward, in closed form.

A reward that is linear in the features of an answer, r = φ · θ with θ ~ N(0, I / ridge), says how much each
question would teach about θ. No training is needed between two questions: a queue that was scored once with
features can be put in order after every answer. Pairs are Δ = φ(a) − φ(b), arrays (N, D) in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import expit, log_expit

from training.acquisition import CRITERIA, MOST_IN_ORDER, Floats, greedy_design, greedy_variance

RIDGES: Final = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
ITERATIONS: Final = 50
BY_FEATURES: Final = ("last_layer", "design", "errors", "worth")
MOST_NEIGHBOURS: Final = 8
NAMES: Final = (*CRITERIA, *BY_FEATURES)


def reward_agnostic(
    directions: Floats, *, asked: Floats | None = None, ridge: float = 1.0, count: int | None = None
) -> tuple[list[int], Floats]:
    """Pairs in the order of ‖φ(a) − φ(b)‖ in the norm of Σ⁻¹, where Σ = ridge · I + Σ ΔΔ' over all earlier
    ones: a design that needs no reward and no label (REGIME, arXiv:2305.18505, Algorithm 1).

    directions: Δ (N, D), of the open pairs; asked: of those that have been asked (A, D). Returns the order
    and ½ log(1 + ‖Δ‖²) of each at its turn.
    """
    known = np.zeros((0, directions.shape[1])) if asked is None else asked
    precision = ridge * np.eye(directions.shape[1]) + known.T @ known
    root = np.linalg.cholesky(np.linalg.inv(precision))
    return greedy_design(directions @ root, np.ones(len(directions)), count=count)


def farthest(features: Floats, root: Floats | None = None) -> Floats:
    """Δ (D,) of the two of the candidates (K, D) that differ most, in the norm of ``root`` · ``root``'."""
    seen = features if root is None else features @ root
    distances = ((seen[:, None, :] - seen[None, :, :]) ** 2).sum(axis=2)
    first, second = np.unravel_index(np.argmax(distances), distances.shape)
    return np.asarray(features[first] - features[second])


@dataclass(frozen=True)
class Belief:
    """θ ~ N(mean, covariance), Laplace's approximation under the ridge with the largest evidence."""

    mean: Floats
    covariance: Floats
    ridge: float
    evidence: float


def learn(directions: Floats, targets: Floats) -> Belief:
    """Bayesian logistic regression of choices on Δ (N, D): what a linear reward's θ can be after N answers.

    targets: the share (N,) of answers for the first of the two, ½ of a tie. The ridge is the one of `RIDGES`
    with the largest evidence, log p(targets | ridge) by Laplace's method (MacKay, 1992).
    """
    return max((fit(directions, targets, ridge) for ridge in RIDGES), key=lambda found: found.evidence)


def fit(directions: Floats, targets: Floats, ridge: float) -> Belief:
    """`learn` under one ridge: Newton's method on a convex function, the step halved until it goes down."""
    size = directions.shape[1]
    theta, value = np.zeros(size), -np.log(2) * len(targets)
    for _ in range(ITERATIONS):
        p = expit(directions @ theta)
        gradient = directions.T @ (targets - p) - ridge * theta
        hessian = (directions * (p * (1 - p))[:, None]).T @ directions + ridge * np.eye(size)
        step = np.linalg.solve(hessian, gradient)
        while (higher := _posterior(theta + step, directions, targets, ridge)) < value - 1e-12:
            step = step / 2
        theta, gained, value = theta + step, higher - value, higher
        if gained < 1e-9:
            break
    p = expit(directions @ theta)
    hessian = (directions * (p * (1 - p))[:, None]).T @ directions + ridge * np.eye(size)
    evidence = value + 0.5 * (size * np.log(ridge) - np.linalg.slogdet(hessian)[1])
    return Belief(theta, np.linalg.inv(hessian), ridge, float(evidence))


def _posterior(theta: Floats, directions: Floats, targets: Floats, ridge: float) -> float:
    margins = directions @ theta
    fit = targets * log_expit(margins) + (1 - targets) * log_expit(-margins)
    return float(fit.sum() - ridge / 2 * theta @ theta)


def order_by_design(
    open_ones: Sequence[Floats], asked: Sequence[Floats], *, count: int = MOST_IN_ORDER
) -> list[int]:
    """Indices of the open groups by `reward_agnostic`; each group's features are (K, D)."""
    if not len(open_ones):
        return []
    scale = scale_of([*open_ones, *asked])
    directions, known = (
        stacked([farthest(one * scale) for one in part], scale) for part in (open_ones, asked)
    )
    return _whole(*reward_agnostic(directions, asked=known, count=count))


def order_by_last_layer(
    open_ones: Sequence[Floats],
    asked: Sequence[Floats],
    choices: Sequence[int | None],
    *,
    count: int = MOST_IN_ORDER,
) -> list[int]:
    """Indices of the open groups by how much surer an answer would make a linear reward, which has learnt
    from those given, of what people choose in all of them; groups are (K, D), a choice is a candidate's index
    or None for a tie.

    Greedy (`greedy_variance`), Σ shrinking by the answers to come. p is the chance of an answer under all
    that θ can be, σ(μ / √(1 + π v / 8)): neither noise is asked for, nor what no comparison depends on.
    """
    if not len(open_ones):
        return []
    scale = scale_of([*open_ones, *asked])
    belief = learn(*compared([one * scale for one in asked], choices, size=len(scale)))
    root: Floats = np.asarray(np.linalg.cholesky(belief.covariance), dtype=np.float64)
    pairs = stacked([farthest(one * scale, root) for one in (*open_ones, *asked)], scale)
    white = pairs @ root
    p = expit(pairs @ belief.mean / np.sqrt(1 + np.pi * (white**2).sum(axis=1) / 8))
    told, size = p * (1 - p), len(open_ones)
    noise = 1 / np.clip(told[:size], 1e-3, None)
    return _whole(*greedy_variance(white[:size], noise, targets=white, weights=told**2, count=count))


def neighbours(chance: float) -> int:
    """How many similar questions are asked where the reward gives what a person chose this chance: 8 where it
    is wrong (p ≤ ½), else ⌈8 (1 − p)⌉ (Skywork-Reward-V2, arXiv:2507.01352, stage 1).
    """
    return MOST_NEIGHBOURS if chance <= 0.5 else math.ceil(MOST_NEIGHBOURS * (1 - chance))


def order_by_errors(
    open_ones: Sequence[Floats], asked: Sequence[Floats], chances: Sequence[float]
) -> list[int]:
    """Indices of the open groups that resemble what the reward gets wrong: of each answered group as many of
    the most similar ones as `neighbours` says. First what most of them name, then what is most alike.

    Similar are groups whose candidates' mean features, standardised, have a large cosine. ``chances``: what
    the reward gives the candidate that a person chose.
    """
    if not len(open_ones) or not len(asked):
        return []
    middles = np.array([one.mean(axis=0) for one in (*open_ones, *asked)])
    centred = (middles - middles.mean(axis=0)) / np.maximum(middles.std(axis=0), 1e-12)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    alike = unit[len(open_ones) :] @ unit[: len(open_ones)].T
    named = np.zeros(len(open_ones))
    for own, chance in zip(alike, chances, strict=True):
        named[np.argsort(-own, kind="stable")[: neighbours(chance)]] += 1
    order = np.lexsort((-alike.max(axis=0), -named))
    return [int(at) for at in order if named[at]]


def compared(groups: Sequence[Floats], choices: Sequence[int | None], *, size: int) -> tuple[Floats, Floats]:
    """Δ (N, D) of what was chosen less each that was not, and targets; a tie is ½ between all candidates."""
    directions: list[Floats] = []
    targets: list[float] = []
    for group, choice in zip(groups, choices, strict=True):
        first = 0 if choice is None else choice
        others = [at for at in range(len(group)) if at != first]
        directions += [group[first] - group[at] for at in others]
        targets += [0.5 if choice is None else 1.0] * len(others)
    return np.array(directions).reshape(-1, size), np.array(targets)


def scale_of(groups: Sequence[Floats]) -> Floats:
    """What makes every feature (D,) count the same: 1 / its spread over all answers, and all of them 1."""
    spread = np.concatenate(groups).std(axis=0)
    return np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0) / np.sqrt(spread.size)


def stacked(directions: Sequence[Floats], scale: Floats) -> Floats:
    return np.array(directions).reshape(-1, len(scale))


def _whole(chosen: list[int], gains: Floats) -> list[int]:
    """The greedy order, and what it left by what that has still to teach."""
    taken = set(chosen)
    return [*chosen, *sorted(set(range(len(gains))) - taken, key=lambda at: (-gains[at], at))]
