"""Stopping early: when, with which weights, and across a resume."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.tuning.text_runs import QUICK, make_run, metrics, pair_rows, read_rows, result_weights, run, state
from training.tuning.early_stop import Patience
from training.tuning.errors import Stopped
from training.tuning.run import Run
from training.tuning.rundir import RunDir

RULE = {"metric": "loss", "patience": 2, "min_delta": 0.1}
# 3.95 is better than 4, but not by 0.1: it is the best, and yet the patience ends two evaluations after 4.
LOSSES = [5.0, 4.0, 3.95, 4.2, 3.0, 2.0]


def open_run(folder: Path, rule: dict[str, Any] = RULE, **config: Any) -> Path:
    config = {"max_steps": 6, "eval_every": 1, "early_stop": rule, "log_every": 4} | config
    return make_run(folder, "sft", base=None, config=config, held_out=pair_rows(2))


def train(folder: Path, values: list[float], *, name: str = "loss", cancel_at: int | None = None) -> Run:
    """A loop whose weight is the number of the step."""
    run = Run(RunDir(folder))
    model = nn.Linear(1, 1, bias=False)
    done = run.begin(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=6)
    for step in run.steps(done):
        model.weight.data.fill_(step)
        run.log(step, {"loss": float(step)})
        run.log_eval(step, {name: values[step - 1]})
        if step == cancel_at:
            run.dir.cancel_file.touch()
        run.end_step(step)
    run.publish(lambda path: (path / "weight").write_text(str(model.weight.item())) and None, how_to_load="x")
    return run


def test_by_hand(tmp_path: Path) -> None:
    run = train(open_run(tmp_path / "run"), LOSSES)
    assert run.total_steps == 4
    assert (run.dir.result / "weight").read_text() == "3.0"
    assert state(run.dir.path)["step"] == state(run.dir.path)["total_steps"] == 4
    rows = read_rows(run.dir.metrics_file)
    assert [row["eval/loss"] for row in rows if "eval/loss" in row] == LOSSES[:4]
    # The mean of the steps since the last line is not lost: 2, 3 and 4.
    assert [row["loss"] for row in rows if "loss" in row] == [1.0, 3.0]
    facts = json.loads((run.dir.result / "metadata.json").read_text())
    assert facts["stopped_early"] == {"at": 4, "kept": 3, "metric": "loss"}
    assert "The weights are those of step 3, the best by loss." in (run.dir.result / "README.md").read_text()


def test_higher_is_better(tmp_path: Path) -> None:
    """The same numbers as an accuracy: 5 is never reached again."""
    rule = RULE | {"metric": "eval/accuracy", "direction": "higher"}
    run = train(open_run(tmp_path / "run", rule), LOSSES, name="accuracy")
    assert run.total_steps == 3
    assert (run.dir.result / "weight").read_text() == "1.0"


def test_what_is_not_finite_is_worst(tmp_path: Path) -> None:
    run = train(open_run(tmp_path / "run"), [float("nan"), 1.0, float("nan"), float("inf"), 0.0, 0.0])
    assert run.total_steps == 4
    assert (run.dir.result / "weight").read_text() == "2.0"


@pytest.mark.parametrize("at", [3, 4])
def test_resuming_keeps_the_patience(at: int, tmp_path: Path) -> None:
    """Cancelled with one stale evaluation, or in the very step in which it stops."""
    folder = open_run(tmp_path / "run")
    with pytest.raises(Stopped):
        train(folder, LOSSES, cancel_at=at)
    (folder / "cancel").unlink()
    run = train(folder, LOSSES)
    assert run.total_steps == 4
    assert (run.dir.result / "weight").read_text() == "3.0"


def test_all_steps_if_it_gets_better(tmp_path: Path) -> None:
    run = train(open_run(tmp_path / "run"), [6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    assert run.total_steps == 6
    assert run.stopped_early == {"at": None, "kept": 6, "metric": "loss"}


def test_patience() -> None:
    patience = Patience()
    for value, stale in [(0.0, 0), (0.1, 1), (0.11, 0), (0.2, 1), (0.0, 2)]:
        patience.add(value, min_delta=0.1)
        assert patience.stale == stale


def test_a_real_run_stops(tmp_path: Path, llama: Path) -> None:
    """A learning rate that is far too large: the held-out loss rises, and the best weights are published."""
    config = QUICK | {"learning_rate": 0.3, "max_steps": 40, "eval_every": 1, "warmup": 0, "batch_size": 4}
    folder = make_run(
        tmp_path / "run",
        "dpo",
        base=llama,
        config=config | {"early_stop": {"patience": 2}},
        held_out=pair_rows(4, seed=9),
    )
    assert run(folder) == 0
    losses = [row["eval/loss"] for row in metrics(folder) if "eval/loss" in row]
    best = min(range(len(losses)), key=losses.__getitem__) + 1
    assert len(losses) == best + 2 < 40
    saved = RunDir(folder).path / f"checkpoint-{best:06d}" / "weights.safetensors"
    found = sorted(float(value.double().sum()) for value in result_weights(folder).values())
    assert found == pytest.approx(sorted(float(v.double().sum()) for v in load_file(saved).values()))


@pytest.mark.parametrize(
    ("config", "held_out", "message"),
    [
        ({"eval_every": None}, True, "early_stop needs eval_every"),
        ({}, False, "early_stop needs held-out rows"),
        ({"early_stop": {"metric": "nothing"}}, True, "the evaluation has no eval/nothing; it has eval/loss"),
    ],
)
def test_what_it_needs(
    config: dict[str, Any], held_out: bool, message: str, tmp_path: Path, llama: Path, capsys: Any
) -> None:
    config = QUICK | {"eval_every": 1, "max_steps": 3, "early_stop": {}} | config
    rows = pair_rows(2) if held_out else None
    assert run(make_run(tmp_path / "run", "sft", base=llama, config=config, held_out=rows)) == 1
    assert message in capsys.readouterr().err


def test_a_loop_that_would_not_stop_is_an_error(tmp_path: Path) -> None:
    """Methods iterate over run.steps; one that counts by itself would ignore early_stop in silence."""
    run = Run(RunDir(open_run(tmp_path / "run")))
    model = nn.Linear(1, 1)
    run.begin(model, torch.optim.SGD(model.parameters(), lr=0.1), total_steps=6)

    def count() -> None:
        for step in range(1, 7):
            run.log_eval(step, {"loss": LOSSES[step - 1]})
            run.end_step(step)

    with pytest.raises(RuntimeError, match=r"does not iterate over run\.steps"):
        count()


def test_one_rule_for_the_best(tmp_path: Path, llama: Path, capsys: Any) -> None:
    config = {"early_stop": {}, "eval_every": 1, "keep_best": False}
    assert run(make_run(tmp_path / "run", "reward_model", base=llama, config=config)) == 1
    assert "early_stop keeps the best weights by its own metric" in capsys.readouterr().err
