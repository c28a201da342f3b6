"""Cohen's kappa of two annotators, plain and weighted, from their table of answers."""

from typing import Literal

import numpy as np

from annotation.quality.intervals import Z95, Floats, Interval

Weights = Literal["nominal", "linear", "quadratic"]


def cohen_kappa(table: Floats, weights: Weights = "nominal") -> Interval | None:
    """Weighted kappa (Cohen 1968), 95 % by the large-sample variance of Fleiss, Cohen & Everitt (1969).

    table (V, V): how often the first annotator said v and the second w, values in order. Equations (1) and
    (9) of "Large sample standard errors of kappa and weighted kappa", Psychological Bulletin 72, 323-327.
    None without answers, or where both always say the same.
    """
    n = float(table.sum())
    if n == 0:
        return None
    p = table / n
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    w = agreement_weights(len(table), weights)
    observed, expected = float((w * p).sum()), float(rows @ w @ columns)
    if expected >= 1 - 1e-12:
        return None
    kappa = (observed - expected) / (1 - expected)
    mean_rows, mean_columns = w @ columns, rows @ w
    inner = w - (mean_rows[:, None] + mean_columns[None, :]) * (1 - kappa)
    variance = ((p * inner**2).sum() - (kappa - expected * (1 - kappa)) ** 2) / (n * (1 - expected) ** 2)
    spread = Z95 * float(np.sqrt(max(0.0, variance)))
    return Interval(kappa, max(-1.0, kappa - spread), min(1.0, kappa + spread), n)


def agreement_weights(size: int, weights: Weights) -> Floats:
    """(V, V): 1 on the diagonal, falling with the distance of two values; 0 off it for nominal ones."""
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(float)
    if weights == "nominal":
        return (distance == 0).astype(float)
    return 1 - (distance / max(1, size - 1)) ** (1 if weights == "linear" else 2)
