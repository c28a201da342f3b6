"""From a project's sums to what its quality page shows, as plain data; annotators by number."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from annotation.quality import agreement
from annotation.quality.counts import Key, time_quantiles
from annotation.quality.intervals import Floats, plain, rate
from annotation.quality.kappa import Weights, cohen_kappa
from annotation.quality.votes import family_of, level_of

KAPPA_WEIGHTS: Final[dict[str, Weights]] = {
    "nominal": "nominal",
    "ordinal": "linear",
    "interval": "quadratic",
}
PAIRS_MAX: Final = 2000  # of annotators; those who share most
ORDER: Final = ("choice", "strength", "aspects", "ranking", "ratings", "thumbs", "rubric", "turns", "tags")


def summarise(counts: Mapping[Key, float]) -> dict[str, Any]:
    """Keys: questions, annotators, pairs, position, length, ties, places, judgements."""
    annotators = _annotators(counts)
    own = [row["sums"] for row in annotators]
    return {
        "judgements": sum(row["judgements"] for row in annotators),
        "questions": _questions(counts),
        "annotators": [{name: value for name, value in row.items() if name != "sums"} for row in annotators],
        "pairs": _pairs(counts),
        "position": _share(own, "position:2:0", "position:2:1"),
        "length": _share(own, "longer", "shorter"),
        "ties": _undecided(own),
        "places": _places(own),
    }


def _questions(counts: Mapping[Key, float]) -> list[dict[str, Any]]:
    """Agreement of every question that two people answered about the same thing, in the template's order."""
    patterns: dict[str, dict[agreement.Pattern, float]] = {}
    for (topic, *rest), n in counts.items():
        if topic == "pattern":
            question, *parts = rest
            pairs = zip(parts[::2], parts[1::2], strict=True)
            pattern = tuple((value, int(times)) for value, times in pairs)
            patterns.setdefault(str(question), {})[pattern] = round(n)
    found = []
    for question in sorted(patterns, key=_place):
        if question == "strength" and not _has_strength(patterns[question]):
            continue
        level = level_of(question)
        summary = agreement.summarise(patterns[question], level)
        if summary is not None:
            values = {name: plain(value) for name, value in vars(summary).items()}
            found.append({"question": question, "level": level} | values)
    return found


def _place(question: str) -> tuple[int, str]:
    family = family_of(question)
    return (ORDER.index(family) if family in ORDER else len(ORDER), question)


def _has_strength(patterns: Mapping[agreement.Pattern, float]) -> bool:
    """Whether anybody said how much better: ties alone are on the scale too, but say nothing of it."""
    return any(value != 0 for pattern in patterns for value, _ in pattern)


def _annotators(counts: Mapping[Key, float]) -> list[dict[str, Any]]:
    sums: dict[int, dict[str, float]] = {}
    times: dict[int, dict[int, float]] = {}
    for (topic, *rest), n in counts.items():
        if topic == "annotator":
            sums.setdefault(int(rest[0]), {})[str(rest[1])] = n
        elif topic == "time":
            times.setdefault(int(rest[0]), {})[int(rest[1])] = n
    rows = [_annotator(who, own, times.get(who, {})) for who, own in sums.items()]
    return sorted(rows, key=lambda row: (-row["judgements"], row["annotator"]))


def _annotator(who: int, own: dict[str, float], times: dict[int, float]) -> dict[str, Any]:
    quantiles = time_quantiles(times, [0.5, 0.9])
    return {
        "annotator": who,
        "judgements": round(own.get("judgements", 0)),
        "median_seconds": quantiles[0] if quantiles else None,
        "p90_seconds": quantiles[1] if quantiles else None,
        "agreement": rate(own.get("agreed", 0), round(own.get("compared", 0))),
        "gold": rate(own.get("gold_right", 0), round(own.get("gold", 0))),
        "repeats": rate(own.get("repeats_same", 0), round(own.get("repeats", 0))),
        "position": _share([own], "position:2:0", "position:2:1"),
        "length": _share([own], "longer", "shorter"),
        "ties": _undecided([own]),
        "sums": own,
    }


def _share(own: list[dict[str, float]], name: str, other: str) -> dict[str, float] | None:
    """How often one of two things happened."""
    first, second = (round(sum(sums.get(key, 0) for sums in own)) for key in (name, other))
    return rate(first, first + second)


def _undecided(own: list[dict[str, float]]) -> dict[str, float] | None:
    neither = sum(sums.get("tie", 0) + sums.get("both_bad", 0) for sums in own)
    return rate(round(neither), round(sum(sums.get("choices", 0) for sums in own)))


def _places(own: list[dict[str, float]]) -> list[dict[str, Any]]:
    """For three candidates and more: how often each place was chosen. By the number of candidates."""
    found: dict[int, dict[int, float]] = {}
    for sums in own:
        for name, n in sums.items():
            if name.startswith("position:"):
                _, candidates, place = name.split(":")
                places = found.setdefault(int(candidates), {})
                places[int(place)] = places.get(int(place), 0) + n
    rows = []
    for count, places in sorted(found.items()):
        total = round(sum(places.values()))
        if count > 2 and total:
            chosen = [rate(round(places.get(place, 0)), total) for place in range(count)]
            rows.append({"candidates": count, "chosen": chosen, "n": total})
    return rows


def _pairs(counts: Mapping[Key, float]) -> list[dict[str, Any]]:
    """Cohen's kappa of each two annotators for each question, weighted where the answers have an order."""
    answers: dict[tuple[str, int, int], dict[tuple[Any, Any], float]] = {}
    for (topic, *rest), n in counts.items():
        if topic == "pair":
            question, a, b, x, y = rest
            answers.setdefault((str(question), int(a), int(b)), {})[x, y] = n
    most = sorted(answers.items(), key=lambda item: (-sum(item[1].values()), item[0]))[:PAIRS_MAX]
    rows = []
    for (question, a, b), cells in most:
        if question == "strength" and all(x == y == 0 for x, y in cells):
            continue
        table = _table(cells)
        kappa = cohen_kappa(table, KAPPA_WEIGHTS[level_of(question)])
        n = round(table.sum())
        rows.append(
            {
                "question": question,
                "first": a,
                "second": b,
                "n": n,
                "agreement": rate(float(np.trace(table)), n),
                "kappa": kappa.as_data() if kappa else None,
            }
        )
    return rows


def _table(cells: Mapping[tuple[Any, Any], float]) -> Floats:
    values = sorted({value for cell in cells for value in cell}, key=lambda v: (isinstance(v, str), v))
    table = np.zeros((len(values), len(values)))
    for (x, y), n in cells.items():
        table[values.index(x), values.index(y)] += n
    return table
