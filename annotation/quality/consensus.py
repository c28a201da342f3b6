"""What is probably right about one comparison, and how sure that is, from what was fitted to all of them."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from scipy import stats

from annotation.quality.dawid_skene import DIAGONAL, OFF_DIAGONAL, label_posterior
from annotation.quality.intervals import Floats
from annotation.quality.votes import Unit, Vote, family_of, level_of

LEVEL: Final = 0.95
LEAST: Final = 0.01  # chances below this are not listed


def consensus_of(unit: Unit, fitted: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What regular judgements say: answers to the main question as chances (eq. 2.5 of Dawid & Skene 1979,
    with the `fitted` prior and confusions), ratings as a mean with its interval.

    Who judged too late for the fit is taken for an annotator of whom nothing is known yet. Answers that the
    fit does not know say nothing; without a fit there are only ratings.
    """
    regular = [vote for vote in unit.votes if vote.kind == "regular"]
    names = dict.fromkeys(name for vote in regular for name in vote.values)
    found = []
    for name in names:
        if level_of(name) == "interval":
            found.append(_mean(name, [float(vote.values[name]) for vote in regular if name in vote.values]))
        elif fitted is not None and family_of(name) == unit.main:
            found += _chances(name, [vote for vote in regular if name in vote.values], fitted)
    return found


def _mean(name: str, values: list[float]) -> dict[str, Any]:
    """With Student's interval; one value has none."""
    n, mean = len(values), float(np.mean(values))
    half = 0.0
    if n > 1:
        half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    bounds = {"low": mean - half, "high": mean + half} if n > 1 else {"low": None, "high": None}
    return {"about": name, "judgements": n, "mean": mean, **bounds}


def _chances(name: str, votes: list[Vote], fitted: Mapping[str, Any]) -> list[dict[str, Any]]:
    labels: list[Any] = fitted["labels"]
    known = [
        (vote.annotator, labels.index(vote.values[name])) for vote in votes if vote.values[name] in labels
    ]
    if not known:
        return []
    said = np.array([label for _who, label in known], dtype=np.int64)
    posterior = label_posterior(
        np.zeros(len(known), dtype=np.int64),
        np.arange(len(known), dtype=np.int64),
        said,
        np.stack([_confusion(who, fitted) for who, _label in known]),
        np.asarray(fitted["prior"], dtype=float),
        1,
    )[0]
    best = int(posterior.argmax())
    bits = -sum(float(p) * float(np.log2(p)) for p in posterior if p > 0)
    chances = {str(labels[i]): float(p) for i, p in enumerate(posterior) if p >= LEAST}
    return [
        {
            "about": name,
            "judgements": len(known),
            "answer": labels[best],
            "probability": float(posterior[best]),
            "bits": max(0.0, bits),
            "chances": chances,
        }
    ]


def _confusion(annotator: int, fitted: Mapping[str, Any]) -> Floats:
    """P(says l | true t), (L, L); of somebody unknown what the fit takes everybody for at first."""
    if (own := fitted["confusion"].get(str(annotator))) is not None:
        return np.asarray(own, dtype=float)
    size = len(fitted["labels"])
    pseudo = np.full((size, size), OFF_DIAGONAL)
    np.fill_diagonal(pseudo, DIAGONAL)
    return pseudo / pseudo.sum(axis=1, keepdims=True)
