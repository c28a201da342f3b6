"""Numbers with their uncertainty."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Z95: Final = 1.959964
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A value, its 95 % interval, and how many observations it rests on."""

    value: float
    low: float
    high: float
    n: float

    def as_data(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def wilson(successes: float, n: float) -> Interval:
    """Wilson's score interval (JASA 22, 1927, 209-212) at 95 % for a rate.

    `successes` may hold halves and other shares. Raises ValueError for n = 0: there is nothing to say.
    """
    if n <= 0:
        raise ValueError("a rate needs at least one observation")
    rate, z2 = successes / n, Z95**2
    middle = (rate + z2 / (2 * n)) / (1 + z2 / n)
    spread = Z95 / (1 + z2 / n) * np.sqrt(max(0.0, rate * (1 - rate)) / n + z2 / (4 * n**2))
    return Interval(float(rate), max(0.0, float(middle - spread)), min(1.0, float(middle + spread)), n)


def rate(successes: float, n: float) -> dict[str, float] | None:
    """Wilson's interval as plain data; None where nothing was observed."""
    return wilson(successes, n).as_data() if n > 0 else None


def percentiles(value: float, resampled: Floats, n: float) -> Interval:
    """The 95 % percentile interval of a bootstrap (Efron 1979); resamples without a value are left out."""
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return Interval(float(value), float(low), float(high), n)


def plain(value: Any) -> Any:
    """Dataclasses, numpy numbers and NaN as JSON knows them."""
    if isinstance(value, Interval):
        return value.as_data()
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
