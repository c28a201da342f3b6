"""Run directories for text methods, and ways to run and read them."""

import json
import random
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from training.tuning.__main__ import main

WORDS = ["short", "kind", "correct", "long", "rude", "wrong", "answer", "question", "password", "settings"]
QUICK = {"max_length": 128, "samples": 0, "log_every": 1}


def sentence(rng: random.Random, least: int, most: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))


def pair_rows(count: int = 12, *, seed: int = 0) -> list[dict[str, Any]]:
    """Groups of two different answers, of which somebody chose one."""
    rng = random.Random(seed)
    return [
        {
            "prompt": sentence(rng, 2, 9),
            "candidates": [{"text": sentence(rng, 1, 6) + " a"}, {"text": sentence(rng, 1, 6) + " b"}],
            "judgements": [{"annotator": f"ann{rng.randint(0, 2)}", "choice": rng.randint(0, 1)}],
        }
        for _ in range(count)
    ]


def make_run(
    folder: Path,
    method: str,
    *,
    base: Path | str | None,
    config: dict[str, Any] | None = None,
    rows: list[dict[str, Any]] | str | None = None,
    held_out: list[dict[str, Any]] | None = None,
    seed: int = 3,
    **more: Any,
) -> Path:
    """A run directory; without ``rows``, one with twelve pairs."""
    (folder / "data").mkdir(parents=True)
    spec = {
        "method": method,
        "config": config or {},
        "base": None if base is None else str(base),
        "seed": seed,
    }
    (folder / "run.json").write_text(json.dumps(spec | more))
    write_rows(folder / "data" / "train.jsonl", pair_rows() if rows is None else rows)
    if held_out is not None:
        write_rows(folder / "data" / "eval.jsonl", held_out)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]] | str) -> None:
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def run(folder: Path) -> int:
    """Train in this process; returns the exit code."""
    return main([str(folder)])


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The metric rows without what depends on the clock."""
    clock = {"time", "tokens_per_second"}
    rows = read_rows(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in clock} for row in rows]


def state(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "state.json").read_text())
    return found


def result_weights(folder: Path) -> dict[str, Tensor]:
    """The adapter or model of a result."""
    names = [path for path in (folder / "result").glob("*.safetensors")]
    assert len(names) == 1
    return load_file(names[0])
