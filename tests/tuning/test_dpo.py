"""DPO: its losses by hand, step 0, invariance, resuming, and its optimum on a bandit."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.tuning import text_runs
from tests.tuning.text_runs import QUICK, make_run, metrics, pair_rows, result_weights, run
from training.tuning.losses.dpo import dpo_loss, hinge_loss, ipo_loss, log_ratio_margin
from training.tuning.methods import dpo
from training.tuning.methods.dpo import pair_losses
from training.tuning.text.pairs import PairIndex

zero = torch.zeros(2)


def test_dpo_loss_by_hand() -> None:
    """beta 1, margins 0 and ln 3: -ln(1/2) = ln 2, -ln(3/4) = ln 4/3. beta .1, h = 5: .4741."""
    loss = dpo_loss(torch.tensor([0, math.log(3)]), zero, zero, zero, beta=1.0)
    torch.testing.assert_close(loss, torch.tensor([2, 4 / 3]).log())
    five = dpo_loss(
        torch.tensor([7.0]), torch.tensor([3.0]), torch.tensor([4.0]), torch.tensor([5.0]), beta=0.1
    )
    assert five.item() == pytest.approx(0.4741, abs=5e-5)


def test_label_smoothing_by_hand() -> None:
    """Half of the labels flipped: the loss no longer knows which is which."""
    forward = dpo_loss(
        torch.tensor([2.0]), torch.zeros(1), torch.zeros(1), torch.zeros(1), beta=1.0, label_smoothing=0.5
    )
    backward = dpo_loss(
        torch.zeros(1), torch.tensor([2.0]), torch.zeros(1), torch.zeros(1), beta=1.0, label_smoothing=0.5
    )
    torch.testing.assert_close(forward, backward)
    # -.9 ln σ(2) - .1 ln σ(-2) = .9 · .126928 + .1 · 2.126928
    smoothed = dpo_loss(
        torch.tensor([2.0]), torch.zeros(1), torch.zeros(1), torch.zeros(1), beta=1.0, label_smoothing=0.1
    )
    assert smoothed.item() == pytest.approx(0.326928, abs=1e-6)


def test_ipo_and_hinge_by_hand() -> None:
    """beta .25: the target gap is 2; h = 3 costs 1. Hinge: 1 - .25 · 3 = .25, and nothing from h = 4 on."""
    h = torch.tensor([3.0, 4.0])
    torch.testing.assert_close(ipo_loss(h, zero, zero, zero, beta=0.25), torch.tensor([1.0, 4.0]))
    torch.testing.assert_close(hinge_loss(h, zero, zero, zero, beta=0.25), torch.tensor([0.25, 0.0]))


def test_gradient_at_the_start_is_minus_half_beta() -> None:
    chosen = torch.zeros(1, requires_grad=True)
    dpo_loss(chosen, torch.zeros(1), torch.zeros(1), torch.zeros(1), beta=0.3).sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.15)


def test_soft_targets_weigh_both_directions() -> None:
    """Target 3/4 at h = ln 3, beta 1: 3/4 · ln 4/3 + 1/4 · ln 4; a margin of 0 counts half right."""
    pairs = PairIndex(
        chosen=torch.tensor([0, 2]),
        rejected=torch.tensor([1, 3]),
        weight=torch.ones(2),
        target=torch.tensor([0.75, 1.0]),
    )
    config = SimpleNamespace(loss="sigmoid", beta=1.0, label_smoothing=0.0)
    policy = torch.tensor([math.log(3), 0.0, -1.0, -1.0])
    losses, values = pair_losses(policy, torch.tensor([0.0, 0.0, -1.0, -1.0]), pairs, config)
    expected = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    torch.testing.assert_close(losses, torch.tensor([expected, math.log(2)]))
    assert values["rewards/accuracy"].tolist() == [0.75, 0.5]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [{"r": 4, "alpha": 8}, None], ids=["lora", "full"])
@pytest.mark.parametrize("reference", ["cached", "live"])
def test_step_zero(
    precision: str, lora: Any, reference: str, tmp_path: Path, causal_folder: Callable[[str], Path]
) -> None:
    """Before the first update the loss is ln 2 and all rewards are exactly 0."""
    config = QUICK | {"precision": precision, "lora": lora, "reference": reference, "micro_batch_size": 3}
    architecture = "qwen2" if lora else "llama"
    folder = make_run(tmp_path / "run", "dpo", base=causal_folder(architecture), config=config)
    assert run(folder) == 0
    first = metrics(folder)[0]
    assert first["step"] == 1
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert [first[f"rewards/{name}"] for name in ("chosen", "rejected", "margin")] == [0.0, 0.0, 0.0]
    assert first["rewards/accuracy"] == 0.5
    assert metrics(folder)[-1]["rewards/margin"] != 0


@pytest.mark.parametrize("reference", ["cached", "live"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_adapter_is_its_own_reference(precision: str, reference: str, tmp_path: Path, llama: Path) -> None:
    """Training goes on from an adapter: step 0 is exact, and its own rank is kept."""
    start = make_run(
        tmp_path / "sft", "sft", base=llama, config=QUICK | {"lora": {"r": 3}, "learning_rate": 0.05}
    )
    assert run(start) == 0
    config = QUICK | {"precision": precision, "reference": reference, "learning_rate": 0.01}
    folder = make_run(tmp_path / "dpo", "dpo", base=start / "result", config=config)
    assert run(folder) == 0
    first = metrics(folder)[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/margin"] == 0
    before, after = result_weights(start), result_weights(folder)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    adapter = json.loads((folder / "result" / "adapter_config.json").read_text())
    assert adapter["r"] == 3
    assert adapter["base_model_name_or_path"] == str(llama)


def test_an_adapter_of_another_rank_is_refused(tmp_path: Path, llama: Path, capsys: Any) -> None:
    start = make_run(tmp_path / "sft", "sft", base=llama, config=QUICK | {"lora": {"r": 3}, "max_steps": 1})
    assert run(start) == 0
    folder = make_run(tmp_path / "dpo", "dpo", base=start / "result", config=QUICK | {"lora": {"r": 8}})
    assert run(folder) == 1
    assert "the adapter has rank 3" in capsys.readouterr().err


@pytest.mark.parametrize("lora", [{"r": 4, "alpha": 8}, None], ids=["lora", "full"])
def test_batch_of_eight_is_eight_of_one(lora: Any, tmp_path: Path, llama: Path) -> None:
    """The same updates, however a batch is split: judgements that count double included."""
    rows = pair_rows(16)
    rows[0]["judgements"] *= 3
    config = QUICK | {"lora": lora, "batch_size": 8, "epochs": 2, "learning_rate": 1e-3, "optimizer": "sgd"}
    weights = []
    for size in (8, 1):
        folder = make_run(
            tmp_path / str(size), "dpo", base=llama, config=config | {"micro_batch_size": size}, rows=rows
        )
        assert run(folder) == 0
        weights.append(result_weights(folder))
    assert len(metrics(tmp_path / "8")) == 4
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-5, atol=1e-7)
    for one, other in zip(metrics(tmp_path / "8"), metrics(tmp_path / "1"), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_same_seed_same_trajectory(tmp_path: Path, llama: Path) -> None:
    config = QUICK | {"learning_rate": 1e-3, "epochs": 2, "samples": 2, "sample_max_new_tokens": 6}
    folders = [
        make_run(tmp_path / name, "dpo", base=llama, config=config, seed=seed)
        for name, seed in (("one", 5), ("two", 5), ("other", 6))
    ]
    assert [run(folder) for folder in folders] == [0, 0, 0]
    assert metrics(folders[0]) == metrics(folders[1]) != metrics(folders[2])
    assert (folders[0] / "samples.jsonl").read_text() == (folders[1] / "samples.jsonl").read_text()
    one, two = result_weights(folders[0]), result_weights(folders[1])
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize(
    "config", [{}, {"lora": None, "reference": "live", "precision": "bf16"}], ids=["lora", "full"]
)
def test_resume_equals_uninterrupted(
    config: dict[str, Any], tmp_path: Path, llama: Path, monkeypatch: Any
) -> None:
    """Cancelled after step 4 of 9 and run again: the same metrics, and weights equal to the last bit."""
    config = QUICK | {"batch_size": 4, "epochs": 3, "learning_rate": 1e-3, "log_every": 3} | config
    whole = make_run(tmp_path / "whole", "dpo", base=llama, config=config, held_out=pair_rows(4, seed=9))
    assert run(whole) == 0
    parts = make_run(tmp_path / "parts", "dpo", base=llama, config=config, held_out=pair_rows(4, seed=9))
    update, calls = dpo.update, []

    def cancel_in_step_four(*args: Any, **options: Any) -> Any:
        calls.append(options["step"])
        if options["step"] == 4:
            (parts / "cancel").touch()
        return update(*args, **options)

    monkeypatch.setattr(dpo, "update", cancel_in_step_four)
    assert run(parts) == 130
    assert text_runs.state(parts)["status"] == "cancelled"
    assert text_runs.state(parts)["step"] == 4
    assert not (parts / "result").exists()
    monkeypatch.setattr(dpo, "update", update)
    assert run(parts) == 0
    assert not (parts / "cancel").exists()
    assert metrics(parts) == metrics(whole)
    one, two = result_weights(whole), result_weights(parts)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_changed_run_is_not_resumed(tmp_path: Path, llama: Path, capsys: Any) -> None:
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=QUICK)
    (folder / "cancel").touch()
    assert run(folder) == 0  # cancel is removed at the start
    spec = json.loads((folder / "run.json").read_text())
    spec["config"]["beta"] = 0.5
    (folder / "run.json").write_text(json.dumps(spec))
    (folder / "result").rename(folder / "old")
    assert run(folder) == 1
    assert "changed since checkpoint-000002" in capsys.readouterr().err


def test_cached_and_live_references_train_alike(tmp_path: Path, llama: Path) -> None:
    config = QUICK | {"learning_rate": 1e-3, "epochs": 2}
    weights = []
    for reference in ("cached", "live"):
        folder = make_run(tmp_path / reference, "dpo", base=llama, config=config | {"reference": reference})
        assert run(folder) == 0
        weights.append(result_weights(folder))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_dpo_learns(tmp_path: Path, llama: Path) -> None:
    """Answers that end in "a" are always preferred: held-out pairs are soon told apart."""
    rows = [row | {"judgements": [{"choice": 0}]} for row in pair_rows(32)]
    held_out = [row | {"judgements": [{"choice": 0}]} for row in pair_rows(24, seed=1)]
    config = QUICK | {"learning_rate": 1e-2, "epochs": 15, "lora": {"r": 8, "alpha": 16}, "log_every": 10}
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=config, rows=rows, held_out=held_out)
    assert run(folder) == 0
    last = metrics(folder)[-1]
    assert last["eval/rewards/accuracy"] >= 0.8
    assert last["eval/loss"] < 0.5


@pytest.mark.system("s000-096")
def test_recovers_the_reward_of_a_bandit() -> None:
    """Four answers, Bradley-Terry preferences from rewards r: β (log π/π_ref) differs as r does.

    The minimum of the expected loss over all policies is π ∝ π_ref exp(r / β), Eq. 4 of arXiv:2305.18290.
    """
    reward = torch.tensor([0.0, 0.5, -0.7, 1.2], dtype=torch.float64)
    reference = torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=torch.float64).log()
    logits = reference.clone().requires_grad_(True)
    first, second = torch.combinations(torch.arange(4)).unbind(1)
    pairs = PairIndex(first, second, torch.ones(6), torch.sigmoid(reward[first] - reward[second]))
    beta = 0.4
    config = SimpleNamespace(loss="sigmoid", beta=beta, label_smoothing=0.0)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = pair_losses(logits.log_softmax(0), reference, pairs, config)[0].mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    policy = logits.detach().log_softmax(0)
    implied = beta * (policy - reference)
    torch.testing.assert_close(implied - implied[0], reward - reward[0], rtol=0, atol=1e-5)
    optimum = (reference + reward / beta).log_softmax(0)
    torch.testing.assert_close(policy, optimum, rtol=0, atol=1e-5)


def test_log_ratio_margin_is_exactly_zero_at_the_start() -> None:
    """Large sums of bfloat16 values cancel before anything is subtracted across answers."""
    chosen, rejected = torch.tensor([-1632.25]), torch.tensor([-1.0])
    assert log_ratio_margin(chosen, rejected, chosen, rejected).item() == 0
