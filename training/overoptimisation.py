"""Over-optimisation: how a proxy, a gold reward and people part as a policy moves away from its reference.

Distances are d = √KL(π ‖ π_ref). The law R(d) = d (α − β ln d) of arXiv:2210.10760, which arXiv:2406.02900
finds for direct alignment too, rises, turns at d* = exp(α/β − 1) and is back at nothing at exp(α/β).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST = 3  # points for two unknowns
FAR = 50.0  # α/β of a law whose turn is beyond every distance


@dataclass(frozen=True)
class Law:
    """R(d) = d (α − β ln d), as gain over the reference."""

    alpha: float
    beta: float

    def at(self, d: float) -> float:
        return d * (self.alpha - self.beta * math.log(d)) if d > 0 else 0.0

    @property
    def peak(self) -> float | None:
        """The distance at which to stop; None where the law does not turn."""
        turns = self.beta > 0 and self.alpha / self.beta < FAR
        return math.exp(self.alpha / self.beta - 1) if turns else None


def fit_law(distances: Sequence[float], gains: Sequence[float]) -> Law | None:
    """Least squares on (d, −d ln d), in which the law is linear; None with fewer than three distances."""
    points = [(d, gain) for d, gain in zip(distances, gains, strict=True) if d > 0]
    if len({d for d, _ in points}) < LEAST:
        return None
    d = np.array([point[0] for point in points])
    (alpha, beta), *_ = np.linalg.lstsq(
        np.stack([d, -d * np.log(d)], axis=1), np.array([point[1] for point in points]), rcond=None
    )
    return Law(float(alpha), float(beta))


def hacked_from(proxy: Sequence[float], golden: Sequence[float]) -> int | None:
    """Where a proxy begins to improve while what it stands for gets worse; None if it never does.

    The test of arXiv:2502.02671 on two distances, lower is better: the proxy falls, and the golden one is
    above its lowest so far. Of rewards give the negatives.
    """
    for at in range(1, len(proxy)):
        if proxy[at] < proxy[at - 1] and golden[at] > min(golden[:at]):
            return at
    return None
