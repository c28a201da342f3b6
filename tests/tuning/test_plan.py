"""Plans, learning rates, means and intervals."""

import pytest
import torch

from training.tuning import plan as plan_module
from training.tuning.config import SFTConfig
from training.tuning.metrics import Means, accuracy, wilson
from training.tuning.optim import learning_rate
from training.tuning.plan import make_plan, split


def plan_of(count: int, *, seed: int = 1, budget: int = 100, **config: object):
    return make_plan([10] * count, config=SFTConfig(**config), seed=seed, budget=budget)


def test_every_group_once_per_epoch() -> None:
    plan = plan_of(21, batch_size=4, epochs=2)
    assert plan.total_steps == 12
    for epoch in (0, 1):
        seen = [index for step in range(1, 7) for micro in plan.step(epoch * 6 + step) for index in micro]
        assert sorted(seen) == list(range(21))


def test_epochs_permute_batches_and_keep_micro_batches() -> None:
    plan = plan_of(40, batch_size=4, epochs=2, micro_batch_size=2)
    first = [plan.step(step) for step in range(1, 11)]
    second = [plan.step(step) for step in range(11, 21)]
    assert first != second
    assert sorted(first) == sorted(second)
    assert sorted(plan.micro_batches()) == sorted(micro for batch in first for micro in batch)


def test_order_is_made_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a large data set costs no more than one of a small one."""
    plan, made = plan_of(40, batch_size=4, epochs=2), []
    shuffled = plan_module._shuffled
    monkeypatch.setattr(
        plan_module, "_shuffled", lambda values, seed: made.append(seed) or shuffled(values, seed)
    )
    for step in range(1, 21):
        plan.step(step)
    assert made == ["1/epoch/0", "1/epoch/1"]


def test_splitting_does_not_change_batches() -> None:
    """The groups of a step, and their order, are the same for every micro-batch size."""
    whole = plan_of(20, batch_size=8)
    for size in (1, 3):
        parts = plan_of(20, batch_size=8, micro_batch_size=size)
        for step in range(1, 4):
            flat = [index for micro in parts.step(step) for index in micro]
            assert flat == [index for micro in whole.step(step) for index in micro]
            assert max(map(len, parts.step(step))) == size


def test_seed_decides() -> None:
    assert plan_of(20).batches == plan_of(20).batches != plan_of(20, seed=2).batches


def test_steps_replace_epochs() -> None:
    assert plan_of(20, batch_size=4, max_steps=7, epochs=9).total_steps == 7
    assert plan_of(20, batch_size=4, epochs=0.5).total_steps == 3
    short = plan_of(20, batch_size=4, max_steps=2)
    assert len(short.micro_batches()) == 2
    assert sorted(short.micro_batches()) == sorted([*short.step(1), *short.step(2)])


def test_split_by_budget_and_bucket() -> None:
    assert split(range(4), [5, 5, 5, 50], most=None, budget=10) == [[0, 1], [2], [3]]
    assert split(range(4), [1] * 4, most=None, budget=9, buckets=["a", "b", "a", "b"]) == [[0, 2], [1, 3]]


def test_learning_rates_by_hand() -> None:
    """Two steps of warm-up at 1/3 and 2/3, then from the peak down to (but not at) zero."""
    rates = {
        name: [
            learning_rate(SFTConfig(learning_rate=3.0, scheduler=name, warmup=2), step=step, total_steps=6)
            for step in range(1, 7)
        ]
        for name in ("constant", "linear", "cosine")
    }
    assert rates["constant"] == [1, 2, 3, 3, 3, 3]
    assert rates["linear"] == pytest.approx([1, 2, 3, 2.25, 1.5, 0.75])
    assert rates["cosine"] == pytest.approx([1, 2, 3, 3 * 0.853553, 1.5, 3 * 0.146447], rel=1e-5)
    share = SFTConfig(learning_rate=3.0, warmup=0.5)
    assert learning_rate(share, step=1, total_steps=4) == 1


def test_means_are_weighted() -> None:
    means = Means()
    means.add({"a": torch.tensor([1.0, 2.0])}, torch.tensor([1.0, 3.0]))
    means.add({"a": torch.tensor([5.0])}, torch.tensor([4.0]))
    means.add({"b": torch.tensor([5.0])}, torch.tensor([0.0]))
    assert means.result() == {"a": (1 + 6 + 20) / 8}


def test_accuracy_counts_ties_half() -> None:
    margin = torch.tensor([2.0, -2.0, 0.0, 1.0])
    target = torch.tensor([1.0, 1.0, 1.0, 0.75])
    assert accuracy(margin, target).tolist() == [1, 0, 0.5, 0.75]


def test_wilson_by_hand() -> None:
    """8 of 10 at z = 1.96: (0.8 + 0.19208) / 1.38416 ± 1.96 / 1.38416 · √(0.016 + 0.009604)."""
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-5)
    assert wilson(0, 0) == (0, 1)
    assert wilson(0, 5)[0] == pytest.approx(0)
    assert wilson(5, 5)[1] == pytest.approx(1)
