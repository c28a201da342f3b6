"""Trackers keep what metrics.jsonl says, and they never hurt."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.tuning.image_runs import cancelled_after
from tests.tuning.text_runs import QUICK, make_run, metrics, pair_rows, read_rows, run
from training.tuning import trackers
from training.tuning.trackers import Tracked, Trackers

CONFIG = QUICK | {"batch_size": 4, "epochs": 2, "eval_every": 2}


def numbers(folder: Path) -> dict[tuple[str, int], float]:
    """Every value of metrics.jsonl by name and step."""
    rows = read_rows(folder / "metrics.jsonl")
    return {
        (name, row["step"]): value
        for row in rows
        for name, value in row.items()
        if name not in ("step", "time") and value is not None
    }


def cancelled_and_resumed(folder: Path) -> None:
    """Asked to stop in step 3 of 6, and run again."""
    with cancelled_after(3):
        assert run(folder) == 130
    assert run(folder) == 0


def test_tensorboard(tmp_path: Path, llama: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = CONFIG | {"report_to": ["tensorboard"]}
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=config, held_out=pair_rows(4, seed=9))
    cancelled_and_resumed(folder)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    found = {
        (name, event.step): event.value for name in events.Tags()["scalars"] for event in events.Scalars(name)
    }
    assert len(metrics(folder)) == 9
    assert found == pytest.approx(numbers(folder), rel=1e-5)


def test_mlflow(tmp_path: Path, llama: Path, monkeypatch: Any) -> None:
    """One run, resumed, in a store of files."""
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = CONFIG | {"report_to": ["mlflow"]}
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=config, held_out=pair_rows(4, seed=9))
    cancelled_and_resumed(folder)
    client = MlflowClient(tracking_uri=(folder / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("tiebreak")
    assert experiment is not None
    (kept,) = client.search_runs([experiment.experiment_id])
    assert kept.info.status == "FINISHED"
    assert kept.data.params["method"] == "dpo"
    assert kept.data.params["batch_size"] == "4"
    expected = numbers(folder)
    assert set(kept.data.metrics) == {name for name, _ in expected}
    for name in ("loss", "eval/loss"):
        history = {(name, one.step): one.value for one in client.get_metric_history(kept.info.run_id, name)}
        assert history == pytest.approx({key: value for key, value in expected.items() if key[0] == name})


def test_wandb_offline(tmp_path: Path, llama: Path, monkeypatch: Any) -> None:
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    config = CONFIG | {"report_to": ["wandb"]}
    folder = make_run(tmp_path / "run", "sft", base=llama, config=config)
    assert run(folder) == 0
    (log,) = (folder / "wandb").glob("offline-run-*/run-sft-run-*.wandb")
    content = log.read_bytes()
    for name in (b"learning_rate", b"grad_norm", b"tokens_per_second", b"weight_decay"):
        assert name in content


class Broken:
    """A tracker that fails, or hangs, when it is told the second step."""

    def __init__(self, run: Tracked, *, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.told: list[int] = []

    def log(self, step: int, values: dict[str, float]) -> None:
        self.told.append(step)
        if step == 2:
            time.sleep(self.seconds)
            raise ConnectionError("no route to the tracker")

    def close(self, status: str) -> None:
        raise AssertionError("it was left out before")


def test_a_tracker_that_fails_is_left_out(tmp_path: Path, llama: Path, monkeypatch: Any) -> None:
    made: list[Broken] = []
    monkeypatch.setitem(trackers.OPENERS, "tensorboard", lambda run: made.append(Broken(run)) or made[0])
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=CONFIG | {"report_to": ["tensorboard"]})
    assert run(folder) == 0
    assert made[0].told == [1, 2]
    log = (folder / "log.txt").read_text()
    assert log.count("tensorboard is left out from here on: ConnectionError: no route to the tracker") == 1
    assert len(metrics(folder)) == 6


def test_a_tracker_that_cannot_be_opened(tmp_path: Path, llama: Path, monkeypatch: Any) -> None:
    def refuse(run: Tracked) -> Any:
        raise PermissionError("no key")

    monkeypatch.setitem(trackers.OPENERS, "tensorboard", refuse)
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=CONFIG | {"report_to": ["tensorboard"]})
    assert run(folder) == 0
    assert "tensorboard is left out from here on: PermissionError: no key" in (folder / "log.txt").read_text()


def test_a_slow_tracker_costs_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    """Rows are handed over without waiting, dropped once too many wait, and the end waits so long only."""
    monkeypatch.setattr(trackers, "PATIENCE", 0.2)
    monkeypatch.setattr(trackers, "WAITING", 3)
    monkeypatch.setitem(trackers.OPENERS, "wandb", lambda run: Broken(run, seconds=60.0))
    start = time.monotonic()
    held = Trackers(["wandb"], Tracked(tmp_path, key="k", method="dpo", config={}, done=0))
    for step in range(1, 100):
        held.send(step, {"loss": 1.0, "text": "x", "nan": float("nan")})
    held.close("done")
    assert time.monotonic() - start < 30


def test_a_missing_package_is_named(tmp_path: Path, llama: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=CONFIG | {"report_to": ["wandb"]})
    assert run(folder) == 1
    assert 'the package wandb is not installed: pip install "tiebreak[wandb]"' in capsys.readouterr().err
