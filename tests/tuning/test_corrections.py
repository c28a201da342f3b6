"""Rewards of tokens from a correction, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.tuning.corrections import correction_rewards


@pytest.mark.parametrize(
    ("answer", "corrected", "rewards"),
    [
        ("ABXD", "ABCD", [1, 1, -1, 0]),
        ("ABCD", "ABCD", [1, 1, 1, 1]),
        ("XBCD", "ABCD", [-1, 0, 0, 0]),
        ("ABCD", "AB", [1, 1, -1, -1]),
        ("ABD", "ABCD", [1, 1, 0]),  # what is missing has no token of its own
        ("ABCD", "ABCDE", [1, 1, 1, 1]),
        ("AXBYC", "ABC", [1, -1, 0, -1, 0]),
        ("", "A", []),
    ],
)
def test_by_hand(answer, corrected, rewards):
    assert correction_rewards(answer, corrected) == rewards


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(0, 3), max_size=12))
def test_every_token_has_one_and_plus_ends_at_the_first_difference(answer, corrected):
    rewards = correction_rewards(answer, corrected)
    assert len(rewards) == len(answer)
    plus = rewards.count(1)
    assert rewards[:plus] == [1] * plus
    assert answer[:plus] == corrected[:plus]
    assert (plus == len(answer)) or rewards[plus] in (0, -1)
