"""Who answers which comparison, people or a judge: a regression on what people's answers were worth.

Hybrid preferences (HyPER, arXiv:2410.19133), with a linear reward in closed form in place of reward models:

1. Where people and the judge have both answered, mixes are drawn at random budgets: some of the answers are
   people's, the others the judge's. A linear reward learns from each mix.
2. It is measured on people's answers to comparisons that it has not seen: mean log-likelihood.
3. A linear regression of that on how many comparisons with each tag people answered. Its coefficients are
   what a person's answer to such a comparison is worth.
4. An open comparison's gain is the sum over its tags. The budget goes to the largest ones; what gains nothing
   is the judge's. In a linear model these are the best mix there is.

Arrays are float64: N comparisons, T tags, M mixes, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from scipy.special import log_expit

from training import designs
from training.acquisition import Floats

Mask = NDArray[np.bool_]
MIXES: Final = 300
SPLITS: Final = 4
TOPICS: Final = 6
LEVELS: Final = 3  # low, middle and high of each quantity
FEWEST: Final = 24  # comparisons that both have answered


@dataclass(frozen=True)
class Known:
    """Comparisons of two candidates that people and the judge have both answered: Δ (N, D), the first's
    features less the second's; the share (N,) of answers for the first, by each; tags (N, T) of 0 and 1.
    """

    directions: Floats
    people: Floats
    judge: Floats
    tags: Floats


def draw_mixes(size: int, *, count: int, rng: np.random.Generator) -> Mask:
    """(M, N): which answers are people's. Each mix has a budget of its own, drawn from 0..N."""
    budgets = rng.integers(0, size + 1, size=count)
    return np.array([rng.permutation(size) < budget for budget in budgets]).reshape(count, size)


def worth_of_tags(shares: Floats, scores: Floats, *, ridge: float = 1e-3) -> Floats:
    """What the share of people's answers among all, tag by tag, does to a score: coefficients (T,).

    Least squares of scores (M,) on shares (M, T) and a constant, with ``ridge`` times M on the coefficients
    of shares with unit spread, since tags overlap.
    """
    spread = np.maximum(shares.std(axis=0), 1e-12)
    centred = (shares - shares.mean(axis=0)) / spread
    gram = centred.T @ centred + ridge * len(scores) * np.eye(shares.shape[1])
    found = np.linalg.solve(gram, centred.T @ (scores - scores.mean())) / spread
    return np.where(shares.std(axis=0) > 0, found, 0.0)


def measure(known: Known, mix: Mask, train: Mask, ridge: float) -> float:
    """Mean log-likelihood of people's answers outside ``train`` under a reward that learnt from a mix."""
    targets = np.where(mix, known.people[train], known.judge[train])
    theta = designs.fit(known.directions[train], targets, ridge).mean
    margins, people = known.directions[~train] @ theta, known.people[~train]
    return float((people * log_expit(margins) + (1 - people) * log_expit(-margins)).mean())


def learn_worth(known: Known, *, seed: int = 0, mixes: int = MIXES, splits: int = SPLITS) -> Floats:
    """The worth (T,) of a person's answer by tag, averaged over random halves that are learnt from."""
    rng = np.random.default_rng(seed)
    size = len(known.people)
    ridge = designs.learn(known.directions, known.people).ridge
    found = []
    for _ in range(splits):
        train = rng.permutation(size) < size - size // 2
        drawn = draw_mixes(int(train.sum()), count=mixes // splits, rng=rng)
        scores = np.array([measure(known, mix, train, ridge) for mix in drawn])
        shares = drawn @ known.tags[train] / train.sum()
        found.append(worth_of_tags(shares, scores))
    return np.asarray(np.mean(found, axis=0))


def route(gains: Floats, *, budget: int | None = None) -> list[int]:
    """What people are asked: the largest gains (N,) above 0, ``budget`` of them at most; in this order."""
    order = np.argsort(-gains, kind="stable")
    return [int(at) for at in order[:budget] if gains[at] > 0]


def with_doubled(routed: Sequence[int], others: Sequence[int], *, share: float, seed: int) -> list[int]:
    """The routed ones, and in between so many random ones of the others that they are this share of all: what
    both answer anyway, so that the judge is measured everywhere.
    """
    every = round(1 / share) if share else 0
    drawn = [others[at] for at in np.random.default_rng(seed).permutation(len(others))]
    found: list[int] = []
    for number, one in enumerate(routed, start=1):
        found.append(one)
        if every and number % max(1, every - 1) == 0 and drawn:
            found.append(drawn.pop())
    return found


def tags_of(groups: Sequence[Floats], margins: Floats, *, seed: int = 0) -> Floats:
    """Tags (N, T) of comparisons by their candidates' features (K, D) and the judge's margin (N,): one of
    `TOPICS` clusters of their means; how far the candidates differ, how large they are and how sure the judge
    is: low, middle or high.
    """
    middles = np.array([group.mean(axis=0) for group in groups])
    middles = (middles - middles.mean(axis=0)) / np.maximum(middles.std(axis=0), 1e-12)
    topics = min(TOPICS, len(groups))
    _, topic = kmeans2(middles, topics, minit="++", seed=seed, missing="warn")
    quantities = (
        np.array([np.linalg.norm(designs.farthest(group)) for group in groups]),
        np.array([np.linalg.norm(group.mean(axis=0)) for group in groups]),
        np.abs(margins),
    )
    columns = [np.eye(topics)[topic]]
    for values in quantities:
        edges = np.quantile(values, np.arange(1, LEVELS) / LEVELS)
        columns.append(np.eye(LEVELS)[np.searchsorted(edges, values, side="left")])
    return np.concatenate(columns, axis=1)
