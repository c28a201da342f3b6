"""The run directory and the command line: locks, states, kills, cancels, bad input."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import QUICK, make_run, metrics, pair_rows, read_rows, result_weights, run, state
from training.tuning import errors, rundir
from training.tuning.errors import Locked
from training.tuning.rundir import RunDir, finite, publish, step_of

SLOW = QUICK | {"batch_size": 1, "max_steps": 40, "save_every": 7, "learning_rate": 1e-3, "log_every": 5}


def start(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "training.tuning", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for(condition: Any, process: "subprocess.Popen[str]", *, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def step(folder: Path) -> int:
    return int(state(folder)["step"]) if (folder / "state.json").exists() else 0


def test_lock_has_one_holder(tmp_path: Path) -> None:
    directory = RunDir(tmp_path)
    with directory.lock(), pytest.raises(Locked), RunDir(tmp_path).lock():
        pass
    with directory.lock():
        pass


def test_locked_exits_75(tmp_path: Path, llama: Path, capsys: Any) -> None:
    folder = make_run(tmp_path / "run", "dpo", base=llama)
    with RunDir(folder).lock():
        assert run(folder) == 75
    assert "another process is training here" in capsys.readouterr().err
    assert not (folder / "state.json").exists()


def test_finished_says_so(tmp_path: Path, llama: Path, capsys: Any) -> None:
    folder = make_run(tmp_path / "run", "sft", base=llama, config=QUICK | {"max_steps": 1})
    assert run(folder) == 0
    before = {path: path.stat().st_mtime_ns for path in (folder / "result").iterdir()}
    assert run(folder) == 0
    assert "finished before" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "result").iterdir()}
    assert state(folder) | {"heartbeat": 0} == {
        "status": "done",
        "step": 1,
        "total_steps": 1,
        "error": None,
        "heartbeat": 0,
    }


def test_kill_at_any_moment(tmp_path: Path, llama: Path) -> None:
    """SIGKILL twice in mid-run; run again, the weights and metrics are those of an undisturbed run."""
    rows, held_out = pair_rows(12), pair_rows(4, seed=8)
    config = SLOW | {"samples": 1, "sample_max_new_tokens": 4, "eval_every": 10}
    whole = make_run(tmp_path / "whole", "dpo", base=llama, config=config, rows=rows, held_out=held_out)
    assert run(whole) == 0
    parts = make_run(tmp_path / "parts", "dpo", base=llama, config=config, rows=rows, held_out=held_out)
    for at in (9, 23):
        process = start(parts)
        wait_for(lambda at=at: step(parts) >= at, process)
        process.kill()
        process.communicate()
        assert state(parts)["status"] == "running"
        assert not (parts / "result").exists()
    assert run(parts) == 0
    assert metrics(parts) == metrics(whole)
    assert read_rows(parts / "samples.jsonl") == read_rows(whole / "samples.jsonl")
    one, two = result_weights(whole), result_weights(parts)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert [step_of(path) for path in RunDir(parts).checkpoints()] == [35, 40]


def test_a_full_disk_costs_a_step_and_no_run(tmp_path: Path, llama: Path, monkeypatch: Any) -> None:
    """It exits 74 and says why; what was saved before is whole, and run again it ends as if undisturbed."""
    quick = QUICK | {"max_steps": 6, "save_every": 2}
    rows = pair_rows(8)
    undisturbed = make_run(tmp_path / "a", "dpo", base=llama, config=quick, rows=rows)
    assert run(undisturbed) == 0
    folder = make_run(tmp_path / "b", "dpo", base=llama, config=quick, rows=rows)

    def flush(path: Path) -> None:
        if ".checkpoint-000004" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(rundir, "_flush", flush)
        assert run(folder) == errors.EXIT_DISK_FULL
    assert [path.name for path in RunDir(folder).checkpoints()] == ["checkpoint-000002"]
    assert list(folder.glob(".*draft")) == []
    assert state(folder)["status"] == "failed"
    assert state(folder)["error"] == (
        "The disk is full: no room on the disk for checkpoint-000004. Free some and run again."
    )
    assert run(folder) == 0
    found = result_weights(folder)
    assert all(torch.equal(value, found[name]) for name, value in result_weights(undisturbed).items())


def test_a_disk_that_is_full_from_the_start(tmp_path: Path, llama: Path, monkeypatch: Any) -> None:
    """Not even its state could be written: the exit code says it."""
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=QUICK | {"max_steps": 1})

    def set_state(self: RunDir, **values: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(RunDir, "set_state", set_state)
        assert run(folder) == errors.EXIT_DISK_FULL
    assert run(folder) == 0


def test_a_full_disk_is_known_by_its_room(tmp_path: Path, monkeypatch: Any) -> None:
    """torch.save says nothing of the reason."""
    usage = shutil.disk_usage(tmp_path)

    def write(folder: Path) -> None:
        raise RuntimeError("unexpected pos 576 vs 534")

    with pytest.raises(RuntimeError, match="unexpected pos"):
        publish(tmp_path / "a", write)
    monkeypatch.setattr(rundir.shutil, "disk_usage", lambda path: usage._replace(free=4096))
    with pytest.raises(errors.DiskFull, match="no room on the disk for a"):
        publish(tmp_path / "a", write)
    assert list(tmp_path.iterdir()) == []


def test_terminate_saves_and_exits_143(tmp_path: Path, llama: Path) -> None:
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=SLOW | {"max_steps": 4000})
    process = start(folder)
    wait_for(lambda: step(folder) >= 3, process)
    assert run(folder) == 75
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 143, process.communicate()
    found = state(folder)
    assert found["status"] == "interrupted"
    assert step_of(RunDir(folder).checkpoints()[-1]) == found["step"] >= 3


def test_dies_with_its_parent(tmp_path: Path, llama: Path) -> None:
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=SLOW | {"max_steps": 4000})
    code = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-m', 'training.tuning', {str(folder)!r}])"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    wait_for(lambda: step(folder) >= 1, parent)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while True:
        try:
            with RunDir(folder).lock():
                break
        except Locked:
            assert time.monotonic() < deadline, "the trainer outlived its parent"
            time.sleep(0.05)


def test_checkpoints_keep_two_and_the_best(tmp_path: Path) -> None:
    directory = RunDir(tmp_path)
    for number in range(1, 6):
        directory.save_checkpoint(number, lambda folder: None, keep={2})
    assert [path.name for path in directory.checkpoints()] == [
        "checkpoint-000002",
        "checkpoint-000004",
        "checkpoint-000005",
    ]


def test_publish_leaves_nothing_half_done(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "file").write_text("x")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        publish(tmp_path / "result", fail)
    assert not (tmp_path / "result").exists()
    RunDir(tmp_path).remove_drafts()
    assert list(tmp_path.iterdir()) == []


def test_values_that_are_not_finite() -> None:
    assert finite({"step": 1, "loss": float("nan"), "x": float("inf"), "y": 0.5}) == {
        "step": 1,
        "loss": None,
        "x": None,
        "y": 0.5,
        "nonfinite": ["loss", "x"],
    }


def test_samples_of_the_finished_model_are_written_once(tmp_path: Path) -> None:
    """Killed after sampling and before the result appeared: the run samples again."""
    directory = RunDir(tmp_path)
    for step, when in ((0, "before"), (9, "after")):
        directory.append_sample({"step": step, "when": when, "text": "x"})
    directory.cut_back(9)
    assert [row["when"] for row in read_rows(directory.samples_file)] == ["before"]


def test_a_run_that_diverges_says_so_and_resumes(tmp_path: Path, llama: Path) -> None:
    """Losses that are not finite are null in the metrics; the run still saves and resumes."""
    config = QUICK | {"optimizer": "sgd", "learning_rate": 1e30, "max_steps": 4, "lora": None, "warmup": 0}
    config |= {"max_grad_norm": None, "scheduler": "constant", "save_every": 1}
    folder = make_run(tmp_path / "run", "sft", base=llama, config=config, held_out=pair_rows(2))
    assert run(folder) == 0
    last = metrics(folder)[-2]
    assert last["loss"] is None
    assert "loss" in last["nonfinite"]
    (folder / "result").rename(folder / "old")
    assert run(folder) == 0
    assert json.loads((folder / "result" / "metadata.json").read_text())["metrics"]["loss"] is None


def test_a_run_resumes_where_its_base_lies_now(tmp_path: Path, llama: Path) -> None:
    """Another worker has the same base in another place."""
    folder = make_run(tmp_path / "run", "sft", base=llama, config=QUICK | {"max_steps": 1})
    assert run(folder) == 0
    (folder / "result").rename(folder / "old")
    moved = shutil.copytree(llama, tmp_path / "moved")
    spec = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(spec | {"base": str(moved)}))
    assert run(folder) == 0
    assert len(metrics(folder)) == 1


def test_cut_back_removes_later_steps_and_half_lines(tmp_path: Path) -> None:
    directory = RunDir(tmp_path)
    for number in (1, 5, 9):
        directory.append_metrics({"step": number, "loss": 0.5})
    with directory.metrics_file.open("a") as handle:
        handle.write('{"step": 10, "lo')
    directory.cut_back(5)
    assert [row["step"] for row in read_rows(directory.metrics_file)] == [1, 5]


BAD_RUNS = {
    "unknown key": ({"config": {"lerning_rate": 1}}, "run.json, config.lerning_rate: unknown key"),
    "unknown key of the run": ({"modle": 1}, "run.json, modle: unknown key"),
    "wrong type": ({"config": {"beta": "high"}}, "run.json, config.beta"),
    "out of range": ({"config": {"beta": 0}}, "run.json, config.beta: Input should be greater than 0"),
    "unknown method": ({"method": "ppo2"}, 'run.json, method: there is no method "ppo2"'),
    "reward": ({"reward": [{"rule": "length"}]}, "reward.0.rule: length needs an argument, length:words"),
    "reward without use": (
        {"method": "simpo", "config": {}, "reward": [{"rule": "words"}]},
        "run.json, reward: simpo takes no reward",
    ),
    "smoothing without use": (
        {"config": {"loss": "ipo", "label_smoothing": 0.1}},
        'does not work with the loss "ipo"',
    ),
    "merging without adapter": ({"config": {"lora": None, "merged": True}}, "merged needs lora"),
    "no base": ({"base": None}, "base: name a model"),
}


@pytest.mark.parametrize("name", BAD_RUNS)
def test_bad_runs(name: str, tmp_path: Path, llama: Path, capsys: Any) -> None:
    changes, expected = BAD_RUNS[name]
    folder = make_run(tmp_path / "run", "dpo", base=llama)
    spec = json.loads((folder / "run.json").read_text()) | changes
    (folder / "run.json").write_text(json.dumps(spec))
    assert run(folder) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert expected in error
    assert state(folder)["status"] == "failed"
    assert expected in state(folder)["error"]


def test_run_json_that_is_missing_or_broken(tmp_path: Path, capsys: Any) -> None:
    assert run(tmp_path / "nowhere") == 1
    assert "there is no such run directory" in capsys.readouterr().err
    assert run(tmp_path) == 1
    assert "run.json: the file is missing" in capsys.readouterr().err
    (tmp_path / "run.json").write_text('{"method": ')
    assert run(tmp_path) == 1
    assert "run.json, line 1: not JSON" in capsys.readouterr().err


BAD_DATA = {
    "not json": ('{"prompt": "p", "chosen": "a", "rejected": "b"}\n{"pro\n', "train.jsonl, line 2: not JSON"),
    "missing column": ([{"prompt": "p", "chosen": "a"}], 'line 1: there is a column "chosen" but the column'),
    "empty answer": ([{"prompt": "p", "chosen": "", "rejected": "b"}], "line 1, chosen: the answer is empty"),
    "prompt too long": (
        [{"prompt": "Why? " * 300, "chosen": "a", "rejected": "b"}],
        "train.jsonl: no row can be used: the prompt is longer than the context (1)",
    ),
    "feedback it cannot use": (
        [{"prompt": "p", "completion": "a", "label": True}],
        "fewer than two candidates (1). The method needs a choice between two candidates",
    ),
    "only ratings": (
        [
            {
                "prompt": "p",
                "candidates": [{"text": "a"}, {"text": "b"}],
                "judgements": [{"ratings": [{"x": 1}, {"x": 2}]}],
            }
        ],
        "no choice or ranking (1)",
    ),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data(name: str, tmp_path: Path, llama: Path, capsys: Any) -> None:
    rows, expected = BAD_DATA[name]
    folder = make_run(tmp_path / "run", "dpo", base=llama, rows=rows)
    assert run(folder) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("method", ["dpo", "sft", "reward_model"])
def test_held_out_rows_of_no_use_do_not_end_a_run(method: str, tmp_path: Path, llama: Path) -> None:
    """A small held-out share may hold nothing but both-bad: the run goes on and the log says why."""
    held_out = [row | {"judgements": [{"choice": "both_bad"}]} for row in pair_rows(2)]
    config = {"max_length": 128, "max_steps": 1, "log_every": 1}
    folder = make_run(tmp_path / "run", method, base=llama, config=config, held_out=held_out)
    assert run(folder) == 0
    assert not any(name.startswith("eval/") for row in metrics(folder) for name in row)
    assert "eval.jsonl: 2 of 2 rows dropped" in (folder / "log.txt").read_text()


def test_bad_models(tmp_path: Path, encoder: Path, capsys: Any) -> None:
    no_tokenizer = save_causal(tmp_path / "no_tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (no_tokenizer / name).unlink()
    pickled = save_causal(tmp_path / "pickled")
    weights = pickled / "model.safetensors"
    weights.rename(pickled / "pytorch_model.bin")
    bare = save_causal(tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    lost = tmp_path / "lost"
    lost.mkdir()
    (lost / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/no/such/folder"}))
    for number, (base, expected) in enumerate(
        [
            (no_tokenizer, f"{no_tokenizer}: the folder holds no tokenizer"),
            (pickled, "pytorch_model.bin: pickled weights are not loaded"),
            (bare, "holds no weights"),
            (encoder, "an encoder writes no text"),
            (tmp_path / "nothing", "nothing"),
            (lost, 'base "/no/such/folder" is not there'),
        ]
    ):
        assert run(make_run(tmp_path / f"run{number}", "dpo", base=base)) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert expected in error


def test_the_unexpected_exits_70_and_is_logged(
    tmp_path: Path, llama: Path, monkeypatch: Any, capsys: Any
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("training.tuning.methods.sft.update", fail)
    folder = make_run(tmp_path / "run", "sft", base=llama, config=QUICK)
    assert run(folder) == 70
    assert state(folder)["error"] == "RuntimeError: out of memory"
    assert "Traceback" in (folder / "log.txt").read_text()
    assert "log.txt" in capsys.readouterr().err
