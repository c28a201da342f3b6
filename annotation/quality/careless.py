"""Who may be careless, or a program: several tests of each annotator, corrected for their number.

Each test compares one annotator with everybody else in the project and needs both a small p-value and a
difference that matters. The p-values of all tests of all annotators go through Benjamini & Hochberg's
procedure (JRSS B 57, 1995), so that of those named at most a hundredth are expected to be named by chance
alone.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy import stats

FALSE_DISCOVERIES: Final = 0.01
JUDGEMENTS_MIN: Final = 20
GOLD_MIN: Final = 5
LEAN: Final = 0.2  # from one half: a side preferred in 70 % or more, or in 30 % or less
FAST: Final = 1 / 3  # of the median of the others' medians
Press = tuple[int, str | None, float | None]  # judgement, key, seconds


@dataclass(frozen=True)
class Finding:
    """One piece of evidence; `values` are the numbers of its sentence, `p` as corrected."""

    annotator: int
    kind: str
    values: dict[str, float]
    p: float

    def as_data(self) -> dict[str, Any]:
        return {"annotator": self.annotator, "kind": self.kind, "values": self.values, "p": self.p}


def find_careless(
    annotators: Sequence[Mapping[str, Any]], presses: Mapping[int, Sequence[Press]], *, chance: float | None
) -> list[Finding]:
    """Evidence against annotators, strongest first.

    `annotators` are rows of `report.summarise`, `presses` what each pressed, in order, and `chance` the
    agreement that would come about at random. Kinds: side, run, fast, gold, agreement.
    """
    tests = [
        *_sides(annotators),
        *_golds(annotators),
        *_agreements(annotators, chance),
        *_runs(presses),
        *_fast(presses),
    ]
    if not tests:
        return []
    corrected = stats.false_discovery_control([p for _, p, _ in tests])
    kept = [
        Finding(finding.annotator, finding.kind, finding.values, float(p))
        for (finding, _, matters), p in zip(tests, corrected, strict=True)
        if matters and p <= FALSE_DISCOVERIES
    ]
    return sorted(kept, key=lambda finding: (finding.p, finding.annotator, finding.kind))


Test = tuple[Finding, float, bool]


def _test(who: int, kind: str, p: float, matters: bool, **values: float) -> Test:
    return Finding(who, kind, values, p), min(1.0, max(0.0, p)), matters


def _sides(annotators: Sequence[Mapping[str, Any]]) -> Iterator[Test]:
    """Sides are drawn by a fair coin, so whoever reads chooses each about half of the time."""
    for row in annotators:
        side = row["position"]
        if side and side["n"] >= JUDGEMENTS_MIN:
            p = stats.binomtest(round(side["value"] * side["n"]), round(side["n"]), 0.5).pvalue
            yield _test(
                row["annotator"],
                "side",
                p,
                abs(side["value"] - 0.5) >= LEAN,
                share=side["value"],
                n=side["n"],
            )


def _golds(annotators: Sequence[Mapping[str, Any]]) -> Iterator[Test]:
    """Right answers against those of all others."""
    known = [row for row in annotators if row["gold"]]
    right = sum(row["gold"]["value"] * row["gold"]["n"] for row in known)
    total = sum(row["gold"]["n"] for row in known)
    for row in known:
        own = row["gold"]
        others = total - own["n"]
        if own["n"] < GOLD_MIN or not others:
            continue
        expected = min(1.0, max(0.0, (right - own["value"] * own["n"]) / others))
        hits = math.ceil(own["value"] * own["n"] - 1e-9)
        p = stats.binomtest(hits, round(own["n"]), expected, alternative="less").pvalue
        matters = own["value"] <= 0.5
        yield _test(row["annotator"], "gold", p, matters, share=own["value"], n=own["n"], others=expected)


def _agreements(annotators: Sequence[Mapping[str, Any]], chance: float | None) -> Iterator[Test]:
    """Agreement no better than chance where the others agree better than that."""
    known = [row for row in annotators if row["agreement"] and row["agreement"]["n"] >= JUDGEMENTS_MIN]
    if chance is None or len(known) < 3:
        return
    for row in known:
        own = row["agreement"]
        rest = [other["agreement"] for other in known if other is not row]
        expected = sum(r["value"] * r["n"] for r in rest) / sum(r["n"] for r in rest)
        hits = math.ceil(own["value"] * own["n"] - 1e-9)
        p = stats.binomtest(hits, round(own["n"]), min(1.0, expected), alternative="less").pvalue
        matters = own["low"] <= chance < expected
        values = {"share": own["value"], "n": own["n"], "others": expected, "chance": chance}
        yield _test(row["annotator"], "agreement", p, matters, **values)


def _runs(presses: Mapping[int, Sequence[Press]]) -> Iterator[Test]:
    """The longest run of one key against the keys of everybody: P by the expected number of runs so long.

    Of n presses with probabilities p_k, about n Σ_k (1 − p_k) p_k^r runs are r long or longer; the number of
    them is near to Poisson (Feller, "An introduction to probability theory", vol. 1, XIII.7).
    """
    total = Counter(key for own in presses.values() for _, key, _ in own if key is not None)
    everything = sum(total.values())
    for who, own in presses.items():
        keys = [key for _, key, _ in own if key is not None]
        if len(keys) < JUDGEMENTS_MIN:
            continue
        others = total - Counter(keys)
        # Everybody else's keys; with nobody else, everybody's. One more of each, so that none is impossible.
        base = others if others.total() >= JUDGEMENTS_MIN else total
        shares = np.array([(base[key] + 1) / (base.total() + len(total)) for key in total])
        length, key = longest_run(keys)
        expected = len(keys) * float(((1 - shares) * shares**length).sum())
        matters = length >= 8 and everything > 0
        yield _test(
            who, "run", -math.expm1(-expected), matters, length=length, n=len(keys), place=_place(key)
        )


def longest_run(keys: Sequence[str]) -> tuple[int, str]:
    """The length of the longest run of equal keys and its key; the first of equally long ones."""
    best, best_key, length = 0, "", 0
    for index, key in enumerate(keys):
        length = length + 1 if index and keys[index - 1] == key else 1
        if length > best:
            best, best_key = length, key
    return best, best_key


def _place(key: str) -> float:
    """The shown position that a key chose, counted from 1; 0 for none."""
    return float(key.split(":", maxsplit=1)[0]) + 1 if key[:1].isdigit() else 0.0


def _fast(presses: Mapping[int, Sequence[Press]]) -> Iterator[Test]:
    """Times against everybody else's, by Mann & Whitney's test; it matters if the median is a third of
    theirs.
    """
    times = {
        who: np.array([seconds for _, _, seconds in own if seconds is not None])
        for who, own in presses.items()
    }
    times = {who: own for who, own in times.items() if len(own) >= JUDGEMENTS_MIN}
    medians = {who: float(np.median(own)) for who, own in times.items()}
    for who, own in times.items():
        others = [median for other, median in medians.items() if other != who]
        if not others:
            continue
        usual = float(np.median(others))
        sample = np.concatenate([_thin(found) for other, found in times.items() if other != who])
        p = float(stats.mannwhitneyu(_thin(own), sample, alternative="less").pvalue)
        matters = medians[who] <= FAST * usual
        yield _test(who, "fast", p, matters, median=medians[who], others=usual, n=len(own))


def _thin(values: np.ndarray, most: int = 500) -> np.ndarray:
    """Evenly spaced ones of a long series: a test needs no more, and its p-value need not be 10⁻³⁰⁰."""
    return values if len(values) <= most else values[np.linspace(0, len(values) - 1, most).astype(int)]
