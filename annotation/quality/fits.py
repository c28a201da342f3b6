"""The iterative models over a whole project, from flat arrays, and what they say of people and judgements."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from annotation.quality.crowd_bt import fit_crowd_bt
from annotation.quality.dawid_skene import DawidSkene, fit_dawid_skene
from annotation.quality.intervals import Floats, Ints, rate
from annotation.quality.votes import Unit, family_of, level_of, pairwise

OnProgress = Callable[[float], None]
FLIPPED_BELOW: Final = 0.05  # posterior of what a judgement said, at which it looks like a slip
SHOWN: Final = 1000  # of the likeliest slips and of the most disputed comparisons
LABELS_MAX: Final = 12  # different answers that Dawid–Skene tells apart


@dataclass
class Answers:
    """A project's regular answers in flat lists: one entry per answer to the main question.

    `things` are what was asked about: (comparison, name of the value). `keys`: for each annotator what they
    pressed, in order, with the seconds it took.
    """

    things: dict[tuple[int, str], int] = field(default_factory=dict)
    labels: dict[Any, int] = field(default_factory=dict)
    annotators: dict[int, int] = field(default_factory=dict)
    thing: list[int] = field(default_factory=list)
    annotator: list[int] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    judgement: list[int] = field(default_factory=list)
    items: dict[tuple[int, int], int] = field(default_factory=dict)
    first: list[int] = field(default_factory=list)
    second: list[int] = field(default_factory=list)
    wins: list[float] = field(default_factory=list)
    by: list[int] = field(default_factory=list)
    keys: dict[int, list[tuple[int, str | None, float | None]]] = field(default_factory=dict)


def gather(units: Iterable[tuple[int, Unit]]) -> Answers:
    """Flat lists of a project's comparisons. Those that one person judged say nothing of reliability."""
    found = Answers()
    for comparison, unit in units:
        regular = [vote for vote in unit.votes if vote.kind == "regular"]
        for vote in regular:
            found.keys.setdefault(vote.annotator, []).append((vote.id, vote.key, vote.seconds))
        if len(regular) < 2:
            continue
        for vote in regular:
            who = found.annotators.setdefault(vote.annotator, len(found.annotators))
            for name, value in vote.values.items():
                if family_of(name) == unit.main and level_of(name) != "interval":
                    found.thing.append(found.things.setdefault((comparison, name), len(found.things)))
                    found.annotator.append(who)
                    found.label.append(found.labels.setdefault(value, len(found.labels)))
                    found.judgement.append(vote.id)
            for i, j, win in pairwise(vote.values, len(unit.sources)):
                found.first.append(found.items.setdefault((comparison, i), len(found.items)))
                found.second.append(found.items.setdefault((comparison, j), len(found.items)))
                found.wins.append(win)
                found.by.append(who)
    for presses in found.keys.values():
        presses.sort(key=lambda press: press[0])
    return found


def fit(answers: Answers, on_progress: OnProgress) -> dict[str, Any]:
    """Dawid–Skene and Crowd-BT as plain data: reliability by annotator, likely slips, disputed comparisons.

    Dawid–Skene needs answers from a small set of values; ratings have too many, and are left to Crowd-BT.
    """
    reliability: dict[int, dict[str, Any]] = {who: {"annotator": who} for who in answers.annotators}
    given = np.bincount(answers.annotator, minlength=len(answers.annotators)) if answers.annotator else None
    names = list(answers.annotators)
    result: dict[str, Any] = {"flipped": [], "flipped_total": 0, "disputed": [], "consensus": None}
    if answers.label and len(answers.labels) <= LABELS_MAX:
        found = fit_dawid_skene(
            _ints(answers.thing),
            _ints(answers.annotator),
            _ints(answers.label),
            size=(len(answers.things), len(answers.annotators), len(answers.labels)),
            on_progress=lambda share: on_progress(share / 2),
        )
        right = _right(answers, found)
        for index, who in enumerate(names):
            n = int(given[index]) if given is not None else 0
            reliability[who]["dawid_skene"] = float(found.reliability[index])
            reliability[who]["consensus"] = rate(float(right[index]), n)
        result |= _slips(answers, found) | {"disputed": _disputed(answers, found)}
        result["consensus"] = {
            "labels": list(answers.labels),
            "prior": found.prior.tolist(),
            "confusion": {str(who): found.confusion[i].round(6).tolist() for i, who in enumerate(names)},
            "iterations": found.iterations,
        }
    if answers.first:
        crowd = fit_crowd_bt(
            _ints(answers.first),
            _ints(answers.second),
            _ints(answers.by),
            np.asarray(answers.wins, dtype=float),
            size=(len(answers.items), len(answers.annotators)),
            on_progress=lambda share: on_progress(0.5 + share / 2),
        )
        played = np.bincount(answers.by, minlength=len(names))
        for index, who in enumerate(names):
            if played[index]:
                reliability[who]["crowd_bt"] = float(crowd.reliability[index])
    return result | {"reliability": list(reliability.values())}


def _ints(values: list[int]) -> Ints:
    return np.asarray(values, dtype=np.int64)


def _right(answers: Answers, found: DawidSkene) -> Floats:
    """For each annotator the expected number of their answers that were right: sums of posteriors."""
    weights = found.posterior[_ints(answers.thing), _ints(answers.label)]
    sums = np.bincount(_ints(answers.annotator), weights=weights, minlength=len(answers.annotators))
    return sums.astype(float)


def _slips(answers: Answers, found: DawidSkene) -> dict[str, Any]:
    """Judgements that the consensus speaks against, least likely first.

    The posterior is the one that leaves the judgement itself in: a slip is what all the others, weighed by
    how reliable they are, outvote.
    """
    posterior = found.posterior[_ints(answers.thing), _ints(answers.label)]
    order = np.argsort(posterior, kind="stable")
    below = int((posterior < FLIPPED_BELOW).sum())
    things, labels, names = list(answers.things), list(answers.labels), list(answers.annotators)
    rows = []
    for index in order[: min(SHOWN, below)]:
        thing = answers.thing[index]
        best = int(found.posterior[thing].argmax())
        rows.append(
            {
                "judgement": answers.judgement[index],
                "comparison": things[thing][0],
                "about": things[thing][1],
                "annotator": names[answers.annotator[index]],
                "said": labels[answers.label[index]],
                "consensus": labels[best],
                "probability": float(posterior[index]),
                "consensus_probability": float(found.posterior[thing, best]),
            }
        )
    return {"flipped": rows, "flipped_total": below}


def _disputed(answers: Answers, found: DawidSkene) -> list[dict[str, Any]]:
    """The things about which least is settled, by the entropy of the posterior."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(found.posterior > 0, found.posterior * np.log2(found.posterior), 0.0)
    entropy = -terms.sum(axis=1)
    things, labels = list(answers.things), list(answers.labels)
    rows = []
    for index in np.argsort(-entropy, kind="stable")[:SHOWN]:
        chances = {str(labels[i]): float(p) for i, p in enumerate(found.posterior[index]) if p >= 0.01}
        comparison, name = things[index]
        rows.append(
            {"comparison": comparison, "about": name, "bits": float(entropy[index]), "chances": chances}
        )
    return rows
