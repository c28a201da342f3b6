"""From judgements to labels and scores of single answers. Torch-free."""

from dataclasses import dataclass

from training.tuning.config import ScoreKeys, VoteKeys
from training.tuning.data import Group, Judgement
from training.tuning.errors import BadInput
from training.tuning.pairs import VOTING_KINDS, judgement_weights
from training.tuning.views import rating


@dataclass(frozen=True)
class Label:
    """How many votes call candidate ``candidate`` of a group good, and how many bad."""

    candidate: int
    good: float
    bad: float


def make_labels(group: Group, keys: VoteKeys) -> list[Label]:
    """The candidates that somebody called good or bad, in order.

    A thumb is a vote. The winner of a choice, or the first of a ranking, is good and those left behind are
    bad; of "both bad" all are. A tie says nothing, nor does a place in the middle of a ranking.
    """
    votes = [[0.0, 0.0] for _ in group.candidates]
    for judgement, weight in zip(group.judgements, judgement_weights(group, keys), strict=True):
        if judgement.kind in VOTING_KINDS:
            for candidate, good in _verdicts(judgement, len(group.candidates)):
                votes[candidate][0 if good else 1] += weight
    return [Label(at, good, bad) for at, (good, bad) in enumerate(votes) if good or bad]


def _verdicts(judgement: Judgement, count: int) -> list[tuple[int, bool]]:
    if judgement.thumbs is not None:
        return [(at, bool(thumb)) for at, thumb in enumerate(judgement.thumbs) if thumb is not None]
    if judgement.ranking is not None and len(judgement.ranking) > 1:
        first, last = judgement.ranking[0], judgement.ranking[-1]
        return [(at, True) for at in first] + [(at, False) for at in last]
    if judgement.choice == "both_bad":
        return [(at, False) for at in range(count)]
    if isinstance(judgement.choice, int):
        return [(at, at == judgement.choice) for at in range(count)]
    return []


def make_scores(group: Group, keys: ScoreKeys) -> list[float | None]:
    """The mean rating of each candidate, from 0 (``rating_low``) to 1 (``rating_high``); None without one."""
    found: list[list[float]] = [[] for _ in group.candidates]
    for judgement in group.judgements:
        if judgement.kind not in VOTING_KINDS:
            continue
        for candidate, ratings in enumerate(judgement.ratings or []):
            value = rating(ratings or {}, keys.rating)
            if value is not None:
                found[candidate].append(_scaled(value, keys))
    return [sum(values) / len(values) if values else None for values in found]


def _scaled(value: float, keys: ScoreKeys) -> float:
    if not keys.rating_low <= value <= keys.rating_high:
        raise BadInput(
            f"a rating of {value:g} is not between rating_low ({keys.rating_low:g}) and rating_high "
            f"({keys.rating_high:g})",
            field="judgements",
        )
    return (value - keys.rating_low) / (keys.rating_high - keys.rating_low)
