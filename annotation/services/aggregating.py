"""Many judgements of a comparison as one: by majority, or weighted with how reliable their annotators are.

Weights are log-odds, ln((L − 1) p / (1 − p)) for an annotator who is right with probability p among L
answers, as the project's quality report has it (Dawid–Skene; Crowd-BT where answers are too many for that):
with independent annotators the weighted vote is then the likeliest answer (Nitzan and Paroush, 1982,
theorem 1).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any, Final

from annotation.models import Project
from annotation.services.filters import VOTES, GroupFilters
from annotation.services.quality import reliabilities

Row = dict[str, Any]
Weigh = Callable[[Row, int], float]
NAMES: Final = {"majority": "majority", "weighted": "weighted majority"}
SURE: Final = 0.99  # nobody weighs more than somebody who is right this often


def aggregator(project: Project, filters: GroupFilters) -> Callable[[Row], Row]:
    """What an export makes of each group."""
    if filters.consensus == "each":
        return lambda group: group
    known = reliabilities(project) if filters.consensus == "weighted" else {}

    def weigh(judgement: Row, answers: int) -> float:
        share = known.get(judgement.get("annotator", ""))
        return 1.0 if filters.consensus == "majority" else log_odds(share, answers)

    name = NAMES[filters.consensus]
    return lambda group: group | {"judgements": aggregate(group, weigh=weigh, name=name)}


def log_odds(share: float | None, answers: int) -> float:
    """The weight of somebody right in this share of cases among so many answers; average where not known."""
    share = min(0.7 if share is None else share, SURE)
    chance = 1 / max(answers, 2)
    return math.log((max(answers, 2) - 1) * share / (1 - share)) if share > chance else 0.0


def aggregate(group: Row, *, weigh: Weigh, name: str) -> list[Row]:
    """One judgement in place of the regular ones; none if they are split evenly on everything."""
    regular = [item for item in group["judgements"] if item.get("kind", "regular") in VOTES]
    k = len(group["candidates"])
    said: Row = {}
    choices = [(item["choice"], weigh(item, k + 1)) for item in regular if item.get("choice") is not None]
    choice = _most(choices)
    if choice is not None:
        said["choice"] = choice
        strengths = [
            item["strength"] for item in regular if item.get("choice") == choice and item.get("strength")
        ]
        said |= {"strength": math.floor(median(strengths) + 0.5)} if strengths else {}
    for key in ("thumbs", "rubric", "ratings"):
        lists = [(item[key], weigh(item, 2)) for item in regular if item.get(key)]
        if lists:
            each = [_one(key, [(values[index], weight) for values, weight in lists]) for index in range(k)]
            said |= {key: each} if any(value is not None for value in each) else {}
    if rankings := [(item["ranking"], weigh(item, k)) for item in regular if item.get("ranking")]:
        said["ranking"] = _borda(rankings, k)
    tags = Counter(tag for item in regular for tag in item.get("tags") or ())
    if common := sorted(tag for tag, times in tags.items() if 2 * times > len(regular)):
        said["tags"] = common
    return [{"annotator": name, "kind": "regular", **said}] if said else []


def _most(votes: Iterable[tuple[Any, float]]) -> Any:
    """What has most weight; None where two have the same."""
    weights: dict[Any, float] = {}
    for value, weight in votes:
        weights[value] = weights.get(value, 0.0) + weight
    first, second = [*sorted(weights.values(), reverse=True), 0.0, 0.0][:2]
    if first - second <= 1e-9 * max(first, 1.0):
        return None
    return max(weights, key=lambda value: weights[value])


def _one(key: str, values: list[tuple[Any, float]]) -> Any:
    """What was said about one candidate: the commonest thumb and tick, the mean rating."""
    known = [(value, weight) for value, weight in values if value is not None]
    if key == "thumbs":
        return _most(known)
    names = sorted({name for value, _ in known for name in value})
    if key == "rubric":
        found = {
            name: _most((value[name], weight) for value, weight in known if name in value) for name in names
        }
    else:
        found = {
            name: _mean([(value[name], weight) for value, weight in known if name in value]) for name in names
        }
    return {name: value for name, value in found.items() if value is not None} or None


def _mean(values: list[tuple[float, float]]) -> float | None:
    total = sum(weight for _, weight in values)
    return round(sum(value * weight for value, weight in values) / total, 6) if total else None


def _borda(rankings: list[tuple[list[list[int]], float]], k: int) -> list[list[int]]:
    """Candidates by their weighted mean place (Borda); equal ones share a rank, unranked ones the last."""
    points = [0.0] * k
    for tiers, weight in rankings:
        place, places = 0, [0.0] * k
        ranked = {index for tier in tiers for index in tier}
        rest = [index for index in range(k) if index not in ranked]
        for tier in [*tiers, rest] if rest else tiers:
            for index in tier:
                places[index] = place + (len(tier) - 1) / 2
            place += len(tier)
        points = [total + weight * own for total, own in zip(points, places, strict=True)]
    rounded = [round(value, 9) for value in points]
    return [[index for index, value in enumerate(rounded) if value == own] for own in sorted(set(rounded))]
