"""Several processes: the same losses and weights as one, resumed or not; who writes, and who is killed."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import (
    QUICK,
    make_run,
    metrics,
    pair_rows,
    read_rows,
    run,
    state,
)
from training.tuning import launching, processes
from training.tuning.plan import halved
from training.tuning.registry import METHODS, get_method
from training.tuning.rundir import RunDir

ROOT = Path(__file__).resolve().parents[2]
LORA = {"r": 4, "alpha": 8}
COMMON = QUICK | {"batch_size": 5, "learning_rate": 1e-3, "lora": LORA, "eval_every": 2}
ONLINE = {"max_new_tokens": 8, "samples": 0, "max_length": None, "max_steps": 3, "eval_every": 2}
REWARD = [{"rule": "length:20"}]
# What is special: adapters, full weights, whole batches, a head, a mean over the step, rollouts.
FAST: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo": ("dpo", {"epochs": 2, "log_every": 2}),
    "dpo-full": ("dpo", {"lora": None, "reference": "live", "micro_batch_size": 1}),
    "dpo-aot": ("dpo", {"loss": "aot", "pairs": "majority"}),
    "reward": ("reward_model", {}),
    "kto": ("kto", {}),
    "grpo": ("grpo", ONLINE | {"num_generations": 3}),
}
SHARDED: dict[str, tuple[str, dict[str, Any]]] = {
    "adapter": ("dpo", {"sharded": True, "samples": 1, "sample_max_new_tokens": 4}),
    "full": ("dpo", {"sharded": True, "lora": None, "micro_batch_size": 1, "epochs": 2, "save_every": 3}),
    "tiny": ("sft", {"sharded": True, "lora": None, "batch_size": 1, "max_steps": 3}),
    "again": ("simpo", {"sharded": True, "gradient_checkpointing": True}),
}
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {"lora": None}),
    "bco": ("dpo", {"loss": "bco_pair"}),
    "groups": ("dpo", {"group_step": 0.1}),
    "simpo": ("simpo", {}),
    "cpo": ("cpo", {}),
    "orpo": ("orpo", {}),
    "redi": ("redi", {}),
    "tdpo": ("tdpo", {}),
    "uft": ("uft", {}),
    "vrpo": ("vrpo", {}),
    "ensemble": ("reward_model", {"members": 2, "member_kind": "adapters"}),
    "rloo": ("rloo", ONLINE | {"num_generations": 2}),
    "ppo": ("ppo", ONLINE | {"minibatches": 1}),
    "online-dpo": ("online_dpo", ONLINE),
    "best-of-n": ("best_of_n", ONLINE | {"num_generations": 2}),
    "uneven": ("dpo", {"batch_size": 1, "max_steps": 3}),
    "nash-md": ("nash_md", ONLINE | {"max_steps": 2}),
    "distillation": ("distillation", ONLINE | {"on_policy": 0.5}),
    "goals": ("goal_dpo", {}),
    "wrpo": ("wrpo", {"final_alpha": 0.5}),
    "selm": ("selm", {"alpha": 0.1}),
    "copg": ("copg", {}),
    "steps": ("process_reward_model", {}),
}


def together(folders: list[Path], tmp_path: Path) -> None:
    """Work through run directories in two processes that meet over gloo."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GLOO_SOCKET_IFNAME": "lo",
        launching.RENDEZVOUS: f"file://{tmp_path}/store",
    }
    command = [sys.executable, "-m", "tests.tuning.rank", *map(str, folders)]
    children = [
        subprocess.Popen(
            command,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [child.communicate(timeout=240)[0] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], "\n".join(said)


def judged_rows() -> list[dict[str, Any]]:
    """Three answers each that a judge ranked; people compared two of them."""
    rows = pair_rows(12)
    for row in rows:
        row["candidates"].append({"text": "another answer"})
        people = {"annotator": "ann", "ranking": [[1], [0]]}
        row["judgements"] = [people, {"annotator": "judge", "kind": "judge", "ranking": [[0], [2], [1]]}]
    return rows


def rated_rows(count: int) -> list[dict[str, Any]]:
    """Three answers each with ratings, of which the model itself wrote the last two; the best is chosen."""
    rng = random.Random(count)
    rows = pair_rows(count)
    for row in rows:
        row["candidates"].append({"text": "another answer"})
        for candidate, source in zip(row["candidates"], ("other", "policy", "policy"), strict=True):
            candidate["source"] = source
        ratings = [{"quality": value} for value in rng.sample([1, 2, 3, 4, 5], 3)]
        choice = max(range(3), key=lambda at: ratings[at]["quality"])
        row["judgements"] = [{"annotator": "ann", "choice": choice, "ratings": ratings}]
    return rows


def stepped_rows(count: int) -> list[dict[str, Any]]:
    """Answers of one, two or three steps, every second with a first error."""
    rows = []
    for number in range(count):
        steps = [f"step {at} is right" for at in range(number % 3 + 1)]
        marks = [
            {"candidate": 0, "type": "step", "step": at, "start": 16 * at, "end": 16 * at + 15}
            | {"first_error": number % 2 == 1 and at == len(steps) - 1}
            for at in range(len(steps))
        ]
        rows.append(
            {
                "prompt": f"question {number}",
                "candidates": [{"text": "\n".join(steps)}],
                "judgements": [{"annotator": "ann", "marks": marks}],
            }
        )
    return rows


ROWS = {
    "vrpo": judged_rows,
    "process_reward_model": lambda: stepped_rows(12),
    **dict.fromkeys(["goal_dpo", "wrpo", "selm", "copg"], lambda: rated_rows(12)),
}


def prepare(tmp_path: Path, base: Path, name: str, method: str, config: dict[str, Any], count: int) -> Path:
    folder = tmp_path / f"{name}-{count}"
    more: dict[str, Any] = {"reward": REWARD} if "max_new_tokens" in config else {}
    more |= {"held_out": pair_rows(5, seed=9)}
    if method in ROWS:
        more |= {"rows": ROWS[method](), "held_out": ROWS[method]()[:5]}
    if method == "distillation":
        more["reward"] = [{"model": str(tmp_path / "teacher")}]
    merged = COMMON | config | {"processes": count}
    if count == 1:
        merged.pop("sharded", None)
    known = get_method(method).config.model_fields
    merged = {key: value for key, value in merged.items() if key in known}
    return make_run(folder, method, base=base, config=merged, **more)


def compare(tmp_path: Path, base: Path, cases: dict[str, tuple[str, dict[str, Any]]]) -> None:
    """Run all cases in one process and in two; nothing may differ but by rounding."""
    single = [prepare(tmp_path, base, name, *case, 1) for name, case in cases.items()]
    double = [prepare(tmp_path, base, name, *case, 2) for name, case in cases.items()]
    together(double, tmp_path)
    for one, two in zip(single, double, strict=True):
        assert run(one) == 0
        same(one, two)


def same(one: Path, two: Path) -> None:
    """Equal metrics, weights and files."""
    rows, others = metrics(one), metrics(two)
    assert len(rows) == len(others) > 0, two.name
    for row, other in zip(rows, others, strict=True):
        assert other.keys() == row.keys(), two.name
        assert other == pytest.approx(row, rel=2e-5, abs=1e-5), two.name
    weights, found = all_weights(one), all_weights(two)
    assert weights.keys() == found.keys()
    for name, value in weights.items():
        torch.testing.assert_close(
            found[name],
            value,
            rtol=1e-5,
            atol=1e-5,
            msg=lambda text, at=f"{two.name}: {name}": f"{at}: {text}",
        )
    assert sorted(p.name for p in (two / "result").iterdir()) == sorted(
        p.name for p in (one / "result").iterdir()
    )


def all_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of an ensemble those of every member."""
    found = {}
    for path in sorted((folder / "result").rglob("*.safetensors")):
        found |= {f"{path.parent.name}/{name}": value for name, value in load_file(path).items()}
    return found


def test_two_processes_are_one(tmp_path: Path, llama: Path) -> None:
    """Losses, metrics and weights, and a run that is cancelled and resumed on the way."""
    case = FAST["dpo"]
    parts = prepare(tmp_path, llama, "parts", *case, 2)
    (parts / "stop-after").write_text("3")
    whole = prepare(tmp_path, llama, "dpo", *case, 1)
    doubles = {name: prepare(tmp_path, llama, name, *one, 2) for name, one in FAST.items()}
    together([*doubles.values(), parts], tmp_path)
    assert run(whole) == 0
    same(whole, doubles["dpo"])
    for name, one in list(FAST.items())[1:]:
        single = prepare(tmp_path, llama, name, *one, 1)
        assert run(single) == 0
        same(single, doubles[name])

    # Resumed: equal to the last bit to the one that was not interrupted.
    assert metrics(parts) == metrics(doubles["dpo"])
    before, after = all_weights(doubles["dpo"]), all_weights(parts)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert state(parts)["status"] == "done"
    # Rank 0 alone wrote: every step once, and one line for every start in the log.
    steps = [row["step"] for row in read_rows(doubles["dpo"] / "metrics.jsonl") if "loss" in row]
    assert steps == sorted(set(steps))
    assert (doubles["dpo"] / "log.txt").read_text().count("seed 3, in") == 1


def take_over(folder: Path, other: Path, *, step: int) -> Path:
    """Let a run go on from the checkpoint of another."""
    name = f"checkpoint-{step:06d}"
    shutil.copytree(other / name, folder / name)
    shutil.copy(other / "metrics.jsonl", folder)
    return folder


@pytest.mark.slow
def test_divided_weights_are_whole_ones(tmp_path: Path, llama: Path) -> None:
    """FSDP over gloo: the same losses and results; either goes on from the other's checkpoints."""
    singles = {name: prepare(tmp_path, llama, name, *case, 1) for name, case in SHARDED.items()}
    for single in singles.values():
        assert run(single) == 0
    doubles = {name: prepare(tmp_path, llama, name, *case, 2) for name, case in SHARDED.items()}
    there = take_over(prepare(tmp_path, llama, "there", *SHARDED["full"], 2), singles["full"], step=3)
    parts = prepare(tmp_path, llama, "parts", *SHARDED["full"], 2)
    (parts / "stop-after").write_text("2")
    together([*doubles.values(), parts, there], tmp_path)
    for name, double in doubles.items():
        same(singles[name], double)
    assert metrics(parts) == metrics(doubles["full"])
    before, after = all_weights(doubles["full"]), all_weights(parts)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    same(singles["full"], there)
    back = take_over(prepare(tmp_path, llama, "back", *SHARDED["full"], 1), doubles["full"], step=3)
    assert run(back) == 0
    same(singles["full"], back)
    total = sum(value.numel() for value in load_file(llama / "model.safetensors").values())
    held = re.search("([0-9,]+) weights are divided; each process holds ([0-9,]+)", log_of(doubles["full"]))
    assert held is not None
    assert [int(word.replace(",", "")) for word in held.groups()] == [total, total // 2]


def log_of(folder: Path) -> str:
    return (folder / "log.txt").read_text()


@pytest.mark.slow
def test_every_method_in_two_processes(tmp_path: Path, llama: Path) -> None:
    save_causal(tmp_path / "teacher", "llama", sharp=False)
    compare(tmp_path, llama, MORE)


def test_every_method_that_takes_processes_is_tried() -> None:
    can = {method.name for method in METHODS if "processes" in method.config.model_fields}
    assert can == {method for method, _ in [*FAST.values(), *MORE.values()]}


def test_the_launcher_goes_by_the_first_that_fails(tmp_path: Path, monkeypatch: Any) -> None:
    """Rank 1 ends with 70 and says why; rank 0, which would wait for ever, is killed."""
    directory = RunDir(make_run(tmp_path / "run", "dpo", base=None, config={"processes": 2}))
    directory.set_state(status="running", step=7)
    monkeypatch.setattr(launching, "GRACE", 0.1)
    scripts = ["import time; time.sleep(600)", "raise SystemExit(70)"]
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any, **options: Any) -> "subprocess.Popen[bytes]":
        started.append(subprocess.Popen([sys.executable, "-c", scripts[len(started)]]))
        if len(started) == 2:
            launching.tell_failure(directory, MemoryError("too large"))
        return started[-1]

    monkeypatch.setattr(launching, "_start", start)
    before = time.monotonic()
    assert launching.launch(directory, 2) == 70
    assert time.monotonic() - before < 120
    assert [child.poll() for child in started] == [-signal.SIGKILL, 70]
    found = state(directory.path)
    assert (found["status"], found["step"]) == ("failed", 7)
    assert found["error"] == "process 1: MemoryError: too large"


def test_more_processes_than_cores_are_refused(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    folder = make_run(tmp_path / "run", "dpo", base=None, config={"processes": 3})
    assert run(folder) == 1
    assert "config.processes: 3 processes on a machine with 2 cores" in capsys.readouterr().err


def test_the_config_must_say_how_many(tmp_path: Path, llama: Path, capsys: Any, monkeypatch: Any) -> None:
    """Started by somebody else in two processes: a config that says one would count every group twice."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(processes, "join", lambda: None)
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=QUICK)
    assert run(folder) == 1
    assert "config.processes: started in 2 processes" in capsys.readouterr().err


def test_micro_batches_for_every_process() -> None:
    """The largest are cut in two, nothing is lost or reordered; too few groups leave somebody without."""
    sizes = [5, 1, 1, 1, 9]
    assert halved([[0, 1, 2], [3]], sizes, multiple=2) == [[0, 1, 2], [3]]
    assert halved([[0, 1, 2, 3]], sizes, multiple=2) == [[0, 1], [2, 3]]
    assert halved([[0, 1, 2], [3, 4]], sizes, multiple=3) == [[0, 1, 2], [3], [4]]
    assert halved([[4]], sizes, multiple=2) == [[4]]


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def started(folder: Path, *, step: int) -> "subprocess.Popen[bytes]":
    """A real launcher in a process group of its own, once the run has come to a step."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "training.tuning", str(folder)]
    (folder / "state.json").unlink(missing_ok=True)
    child = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (folder / "state.json").exists() or state(folder)["step"] < step:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return child


def gone(pids: list[int]) -> bool:
    """None of them runs any more (a zombie that nobody has waited for does not)."""
    alive = [pid for pid in pids if Path(f"/proc/{pid}/stat").exists()]
    return all(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z" for pid in alive)


@pytest.mark.slow
def test_interrupted_killed_and_cancelled(tmp_path: Path, llama: Path) -> None:
    """SIGTERM saves on every process and ends with 143; a killed rank takes the others along."""
    config = COMMON | {"max_steps": 100_000, "save_every": 100_000, "processes": 2, "samples": 0}
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=config)
    child = started(folder, step=2)
    ranks = children_of(child.pid)
    assert len(ranks) == 2
    os.killpg(child.pid, signal.SIGTERM)
    assert child.wait(60) == 143
    assert gone(ranks)
    assert state(folder)["status"] == "interrupted"
    reached = state(folder)["step"]
    assert [path.name for path in RunDir(folder).checkpoints()] == [f"checkpoint-{reached:06d}"]

    child = started(folder, step=reached + 1)
    ranks = children_of(child.pid)
    os.kill(ranks[1], signal.SIGKILL)
    assert child.wait(60) == 128 + signal.SIGKILL
    assert gone(ranks)

    child = started(folder, step=reached + 1)
    ranks = children_of(child.pid)
    (folder / "cancel").touch()
    assert child.wait(60) == 130
    assert gone(ranks)
    assert state(folder)["status"] == "cancelled"

    child = started(folder, step=reached + 1)
    ranks = children_of(child.pid)
    child.kill()
    child.wait(10)
    deadline = time.monotonic() + 20
    while not gone(ranks) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert gone(ranks)


def test_what_a_device_holds(monkeypatch):
    """In GiB; a CPU's memory is everybody's."""
    assert processes.device_memory(torch.device("cpu")) == {}
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2**29)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2**30)
    held = SimpleNamespace(total_memory=2**33)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: held)
    told = {"memory/allocated_gib": 0.5, "memory/peak_gib": 1.0, "memory/total_gib": 8.0}
    assert processes.device_memory(torch.device("cuda")) == told
