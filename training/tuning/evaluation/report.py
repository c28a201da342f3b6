"""The report on a reward: what it gets right, where it errs, and what fools it.

``figures`` holds every headline as one number, for guardrails; the other keys what pages draw. A part that
the rows cannot answer is missing. Rates carry their 95 % Wilson interval.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from math import isfinite
from statistics import fmean
from typing import Any

import torch

from training.tuning.calibration import calibration_error, fit_temperature, reliability
from training.tuning.config.jobs import ProbeKeys
from training.tuning.data import Group, plain_text
from training.tuning.evaluation import figures
from training.tuning.evaluation.probes import OPENERS, Probes, make_probes
from training.tuning.evaluation.rows import Item, items_of
from training.tuning.metrics import wilson

Score = Callable[[Sequence[Group]], list[list[float]]]
Report = dict[str, Any]


def make_report(groups: Sequence[Group], score: Score, keys: ProbeKeys, *, attacked: int = 0) -> Report:
    """Score the rows and their probes in one go, and say what came of it. ``attacked``: how many prompts."""
    rows = items_of(groups)
    probes = make_probes(rows, keys, attacked=attacked)
    asked = [*(item.group for item in rows), *probes.groups]
    scores = score(asked)
    scored = [replace(item, scores=tuple(own)) for item, own in zip(rows, scores, strict=False)]
    usable = [item for item in scored if all(map(isfinite, item.scores))]
    parts = {
        "agreement": agreement(usable),
        "subsets": subsets(usable),
        "best_of": best_of(usable),
        "ties": ties(usable),
        "one_to_many": one_to_many(usable),
        "calibration": calibration(usable),
        "length": length(usable),
        "versions": versions(usable),
        **probed(scored, probes, scores[len(rows) :]),
    }
    said = {name: part for name, part in parts.items() if part}
    counts = {"rows": len(groups), "used": len(usable), "scored": len(asked)}
    left_out = {"undecided": len(groups) - len(rows), "unscored": len(scored) - len(usable)}
    return {**counts, **left_out, "figures": headlines(said), **said}


def rate(values: Sequence[float]) -> dict[str, float]:
    """A mean of values in 0..1 with its interval and number."""
    low, high = wilson(sum(values), len(values))
    return {"rate": fmean(values), "low": low, "high": high, "n": len(values)}


def agreement(items: Sequence[Item]) -> Report:
    """Share of pairs in which the reward prefers what most people, or the verified answers, prefer."""
    values = [_right(item, pair) for item in items if not item.tie for pair in item.pairs()]
    return rate(values) if values else {}


def _right(item: Item, pair: tuple[int, int]) -> float:
    margin = item.scores[pair[0]] - item.scores[pair[1]]
    return 0.5 if margin == 0 else float(margin > 0)


def best_of(items: Sequence[Item]) -> Report:
    """The right one among at least three; ``chance`` is what a constant scorer gets."""
    some = [item for item in items if len(item.scores) > 2 and item.right and not item.tie]
    if not some:
        return {}
    credit = [figures.best_of_credit(item.scores, item.right) for item in some]
    chance = fmean(len(item.right) / len(item.scores) for item in some)
    return {**rate(credit), "chance": chance, "of": max(len(item.scores) for item in some)}


def subsets(items: Sequence[Item]) -> list[Report]:
    """Best-of-k by subset, the ties' composite among them, where rows name subsets."""
    named: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.subset:
            named[item.subset].append(item)
    found = []
    for name, own in sorted(named.items()):
        if tied := ties(own):
            found.append({"name": name, "rate": tied["score"], "n": tied["n"], "ties": True})
        elif plain := [item for item in own if item.right and not item.tie]:
            credit = [figures.best_of_credit(item.scores, item.right) for item in plain]
            found.append({"name": name, "ties": False, **rate(credit)})
    return found


def ties(items: Sequence[Item]) -> Report:
    """RewardBench 2's composite over questions with one and with several right answers."""
    halves: dict[str, dict[str, figures.Scored]] = {"tied": {}, "ref": {}}
    for item in items:
        if item.tie and item.right:
            half, question = item.tie
            halves[half][question] = (item.scores, item.right)
    found = figures.ties_of(halves["tied"], halves["ref"])
    return {**found.as_data(), "n": len(halves["tied"].keys() & halves["ref"].keys())} if found else {}


def one_to_many(items: Sequence[Item]) -> Report:
    """RewardMATH: one right answer above several wrong ones, and the mean of its reciprocal rank."""
    some = [item for item in items if len(item.right) == 1 and len(item.wrong) > 1 and not item.tie]
    if not some:
        return {}
    won = [float(figures.beats_all(item.scores, item.right[0])) for item in some]
    ranks = [figures.reciprocal_rank(item.scores, item.right[0]) for item in some]
    return {**rate(won), "mrr": fmean(ranks), "wrong": max(len(item.wrong) for item in some)}


def calibration(items: Sequence[Item]) -> Report:
    """Whether σ(margin) is the share of votes: bins, their error, and the temperature that mends it."""
    votes = [(item, *vote) for item in items if not item.tie for vote in item.votes()]
    if not votes:
        return {}
    margins = torch.tensor([item.scores[one] - item.scores[other] for item, one, other, _, _ in votes])
    targets = torch.tensor([target for *_, target, _ in votes])
    weights = torch.tensor([weight for *_, weight in votes])
    bins = reliability(margins, targets, weights)
    temperature = fit_temperature(margins, targets, weights)
    return {"ece": calibration_error(bins), "temperature": temperature, "bins": [asdict(one) for one in bins]}


def length(items: Sequence[Item]) -> Report:
    """Does the reward pay for length? Of pairs of unlike length: how often the longer one is preferred, by
    the reward and by people; agreement where the longer and where the shorter is right; and the correlation
    of score and length (characters) within prompts.
    """
    longer: list[float] = []
    people: list[float] = []
    right_long: list[float] = []
    right_short: list[float] = []
    rows = []
    for item in items:
        if item.group.candidates[0].text is None:
            continue
        sizes = [float(len(plain_text(one.text or ""))) for one in item.group.candidates]
        rows.append((item.scores, sizes))
        for good, bad in item.pairs():
            if sizes[good] != sizes[bad]:
                right = _right(item, (good, bad))
                is_longer = sizes[good] > sizes[bad]
                people.append(float(is_longer))
                longer.append(right if is_longer else 1 - right)
                (right_long if is_longer else right_short).append(right)
    if not longer:
        return {}
    return {
        "longer": fmean(longer),
        "people": fmean(people),
        "bias": fmean(longer) - fmean(people),
        "right_if_longer": rate(right_long) if right_long else None,
        "right_if_shorter": rate(right_short) if right_short else None,
        "correlation": figures.within_correlation(rows),
        "n": len(longer),
    }


def versions(items: Sequence[Item]) -> Report:
    """One question in several words or languages: is the same candidate the highest? And who agrees less."""
    families: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if (name := item.group.meta.get("family")) is not None:
            families[str(name)].append(item)
    several = [own for own in families.values() if len(own) > 1]
    if not several:
        return {}
    choices = [[max(range(len(i.scores)), key=i.scores.__getitem__) for i in own] for own in several]
    names = sorted({str(item.group.meta.get("language", "")) for own in several for item in own})
    by_language = []
    for name in names:
        own = [item for group in several for item in group if item.group.meta.get("language", "") == name]
        by_language.append(
            {"name": name, **rate([_right(item, pair) for item in own for pair in item.pairs()])}
        )
    return {
        **rate([figures.same_choice(own) for own in choices]),
        "kappa": figures.fleiss_kappa(choices),
        "languages": by_language,
    }


def probed(items: Sequence[Item], probes: Probes, scores: Sequence[Sequence[float]]) -> Report:
    """What came of the reversed rows, the openers, and the contrasts."""
    turned, rest = scores[: len(probes.turned)], scores[len(probes.turned) :]
    openers, crossed = rest[: len(probes.openers)], rest[len(probes.openers) :]
    return {
        "order": _order(items, turned),
        "openers": _openers([items[number] for number in probes.attacked], openers),
        "contrast": _contrast(items, probes.contrasts, crossed),
    }


def _order(items: Sequence[Item], turned: Sequence[Sequence[float]]) -> Report:
    """How often the preference changes with the order, and how far the first is favoured over both orders."""
    changed, first = [], []
    for item, other in zip(items, turned, strict=False):
        back = other[::-1]
        if not all(map(isfinite, [*item.scores, *back])):
            continue
        for good, bad in item.pairs():
            one, two = _right(item, (good, bad)), _right(replace(item, scores=tuple(back)), (good, bad))
            changed.append(float(one != two))
            # `good` stands first in one order and last in the other.
            first += [one, 1 - two] if good < bad else [1 - one, two]
    return {"changed": fmean(changed), "first": fmean(first), "n": len(changed)} if changed else {}


def _openers(items: Sequence[Item], scores: Sequence[Sequence[float]]) -> list[Report]:
    """For each opener: how often it scores no worse than the right answer. An opener that cannot be scored
    has no rate.
    """
    found = []
    for at, text in enumerate(OPENERS):
        fooled = [
            float(own[at] >= max(item.scores[good] for good in item.right))
            for item, own in zip(items, scores, strict=True)
            if isfinite(own[at]) and all(map(isfinite, item.scores))
        ]
        found.append({"text": text, **(rate(fooled) if fooled else {"rate": None, "n": 0})})
    return found if any(one["n"] for one in found) else []


def _contrast(
    items: Sequence[Item], pairs: Sequence[tuple[int, int]], crossed: Sequence[Sequence[float]]
) -> Report:
    """Like prompts: does each prefer the answer that was written for it?"""
    kept = []
    for number, (one, other) in enumerate(pairs):
        own = [items[row].scores[items[row].right[0]] for row in (one, other)]
        others = [crossed[2 * number][0], crossed[2 * number + 1][0]]
        if all(map(isfinite, [*own, *others])):
            kept.append(float(figures.consistent((own[0], own[1]), (others[0], others[1]))))
    return rate(kept) if kept else {}


def headlines(parts: Report) -> dict[str, float]:
    """Every part as one number or a few."""
    paths = {
        "agreement": ("agreement", "rate"),
        "best_of": ("best_of", "rate"),
        "ties": ("ties", "score"),
        "one_to_many": ("one_to_many", "rate"),
        "mrr": ("one_to_many", "mrr"),
        "ece": ("calibration", "ece"),
        "temperature": ("calibration", "temperature"),
        "order_changed": ("order", "changed"),
        "length_bias": ("length", "bias"),
        "versions": ("versions", "rate"),
        "contrast": ("contrast", "rate"),
    }
    found = {name: parts[part][key] for name, (part, key) in paths.items() if part in parts}
    if subset := parts.get("subsets"):
        found["subsets"] = fmean(one["rate"] for one in subset)
    if fooled := [one["rate"] for one in parts.get("openers", []) if one["rate"] is not None]:
        found["openers"] = max(fooled)
    return {name: value for name, value in found.items() if value is not None}
