"""DPO: its losses by hand, step 0, invariance, resuming, and its optimum on a bandit."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning import text_runs
from tests.tuning.text_runs import QUICK, make_run, metrics, pair_rows, result_weights, run
from training.tuning.text import direct


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
    update, calls = direct.update, []

    def cancel_in_step_four(*args: Any, **options: Any) -> Any:
        calls.append(options["step"])
        if options["step"] == 4:
            (parts / "cancel").touch()
        return update(*args, **options)

    monkeypatch.setattr(direct, "update", cancel_in_step_four)
    assert run(parts) == 130
    assert text_runs.state(parts)["status"] == "cancelled"
    assert text_runs.state(parts)["step"] == 4
    assert not (parts / "result").exists()
    monkeypatch.setattr(direct, "update", update)
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
