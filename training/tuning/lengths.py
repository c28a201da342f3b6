"""How token lengths are spread: what the preview of a run's data shows as bars."""

from collections.abc import Sequence

BARS = 12


def histogram(lengths: Sequence[int]) -> list[list[int]]:
    """`[from, to, count]` bars of equal width, in order; each holds from ≤ length < to. Empty for nothing."""
    if not lengths:
        return []
    low, high = min(lengths), max(lengths)
    width = -(-(high - low + 1) // BARS)
    counts = [0] * BARS
    for length in lengths:
        counts[(length - low) // width] += 1
    bars = [[low + number * width, low + (number + 1) * width, count] for number, count in enumerate(counts)]
    while not bars[-1][2]:
        bars.pop()
    return bars
