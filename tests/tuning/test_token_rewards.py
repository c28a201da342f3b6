"""Rewards of tokens and steps by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.tuning.losses.advantages import generalised_advantages
from training.tuning.rewards.tokens import (
    at_ends,
    clipped_steps,
    correction_rewards,
    find_quote,
    min_form_credit,
    span_rewards,
    step_differences,
)


@pytest.mark.system("s001-053")
def test_segments_by_hand() -> None:
    """Three clean sentences at .5, two bad sub-sentences at .3, completeness .3 · 1: 1.5 − .6 + .3 = 1.2."""
    facts = at_ends(12, [3, 7, 11], torch.full((3,), 0.5))
    relevance = at_ends(12, [1, 5], torch.full((2,), -0.3))
    whole = at_ends(12, [11], torch.tensor([0.3 * 1.0]))
    total = facts + relevance + whole
    assert total.sum().item() == pytest.approx(1.2)
    assert [round(value, 6) for value in total.tolist()] == [0, -0.3, 0, 0.5, 0, -0.3, 0, 0.5, 0, 0, 0, 0.8]


@pytest.mark.system("s000-111")
def test_corrections_by_hand() -> None:
    """ABXD rewritten as ABCD, later predictions as in the answer: + + − 0. An unchanged answer is all +."""
    a, b, c, d, x, end = range(6)
    assert correction_rewards([a, b, x, d], [a, b, c, d]).tolist() == [1, 1, -1, 0]
    assert correction_rewards([a, b, x, d], [a, b, c, b]).tolist() == [1, 1, -1, -1]
    assert correction_rewards([a, b], [a, b]).tolist() == [1, 1]
    # The rewrite is a beginning of the answer: what it would not have said is wrong.
    assert correction_rewards([a, b, c], [a, b, end]).tolist() == [1, 1, -1]


@pytest.mark.system("s001-008")
def test_critique_spans_by_hand() -> None:
    """Praise for the second of three tokens; with V = 0, γ = 1, λ = .95 the advantages are (.95, 1, 0)."""
    text = "The blue sky"
    offsets = [(0, 3), (3, 8), (8, 12)]
    quote = find_quote(text, "blue")
    assert quote == (4, 8)
    rewards = span_rewards(offsets, [quote], [])
    assert rewards.tolist() == [0, 1, 0]
    advantages = generalised_advantages([rewards], [torch.zeros(3)], gamma=1.0, lam=0.95)
    assert advantages[0].tolist() == pytest.approx([0.95, 1, 0])
    assert span_rewards(offsets, [(0, 8)], [(4, 12)]).tolist() == [1, 0, -1]


def test_quotes_are_found_if_nearly_right() -> None:
    text = "It rains a lot in Bergen, says the guide."
    assert find_quote(text, "a lot in Bergen") == (9, 24)
    found = find_quote(text, "a lot in bergen")
    assert found is not None
    assert text[slice(*found)] == "a lot in Bergen"
    assert find_quote(text, "snow in July") is None
    assert find_quote(text, "") is None


@pytest.mark.system("s000-110")
def test_the_worst_step_gets_the_credit() -> None:
    """(1, −1, 1) at a small T: the return is −1; ten more steps of 1 do not change it, their sum would."""
    steps = torch.tensor([1.0, -1.0, 1.0])
    longer = torch.cat([steps, torch.ones(10)])
    for rewards in (steps, longer):
        assert min_form_credit(rewards, temperature=0.05).sum().item() == pytest.approx(-1, abs=1e-4)
    # T = 1 by hand: for (0, ln 3) the weights are 3/4 and 1/4.
    two = torch.tensor([0.0, 2.0]).log1p()
    assert min_form_credit(two, temperature=1.0).tolist() == pytest.approx([0, 1.0986 / 4], abs=5e-5)


@pytest.mark.system("s001-062")
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8), st.integers(1, 20))
def test_repeated_steps_do_not_pay(steps: list[float], repeats: int) -> None:
    """Clipped, no step earns anything; as differences, the return is the first step's however many follow."""
    rewards = torch.tensor(steps)
    again = torch.cat([rewards, rewards[-1:].repeat(repeats)])
    assert clipped_steps(again, threshold=0.5).sum() <= clipped_steps(rewards, threshold=0.5).sum() + 1e-5
    assert (clipped_steps(again, threshold=0.5) <= 0).all()
    assert step_differences(again).sum().item() == pytest.approx(steps[0], abs=1e-5)
