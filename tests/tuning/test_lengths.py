"""Bars of token lengths."""

from itertools import pairwise

import pytest

from training.tuning.lengths import histogram


def test_by_hand():
    """12 lengths from 0 to 23 in bars of two: 0 and 1 fall into the first, 22 and 23 into the last."""
    bars = histogram([0, 1, 5, 22, 23])
    assert bars[0] == [0, 2, 2]
    assert bars[2] == [4, 6, 1]
    assert bars[-1] == [22, 24, 2]
    assert len(bars) == 12


@pytest.mark.parametrize("lengths", [[7], [7, 7, 7], [3, 4], list(range(1000)), [1, 10_000]])
def test_every_length_is_in_one_bar(lengths: list[int]):
    bars = histogram(lengths)
    for low, high, count in bars:
        assert count == sum(low <= length < high for length in lengths)
    assert sum(count for _, _, count in bars) == len(lengths)
    assert len(bars) <= 12
    assert all(earlier[1] == later[0] for earlier, later in pairwise(bars))


def test_nothing():
    assert histogram([]) == []
