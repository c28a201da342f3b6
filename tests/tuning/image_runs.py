"""Run directories for image methods, and ways to run and read them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.tuning.image_models import save_picture
from training.tuning.__main__ import main
from training.tuning.run import Run

PROMPTS = ["a red b", "c d", "blue e", "f g h", "i j", "k l", "m n", "o p"]


def make_run(
    folder: Path,
    method: str,
    *,
    base: Path | str | None,
    config: dict[str, Any],
    rows: list[dict[str, Any]] | None = None,
    held_out: list[dict[str, Any]] | None = None,
    seed: int = 3,
    reward: list[dict[str, Any]] | None = None,
) -> Path:
    """A run directory; without ``rows``, one with eight pairs of random pictures."""
    media = folder / "data" / "media"
    media.mkdir(parents=True, exist_ok=True)
    spec = {"method": method, "config": config, "base": None if base is None else str(base), "seed": seed}
    spec |= {"reward": reward} if reward else {}
    (folder / "run.json").write_text(json.dumps(spec))
    write_rows(folder / "data" / "train.jsonl", rows or pair_rows(media))
    if held_out:
        write_rows(folder / "data" / "eval.jsonl", held_out)
    return folder


def pair_rows(media: Path, *, count: int = 8, first: int = 0) -> list[dict[str, Any]]:
    """Pairs of random pictures, whose files are written too."""
    rows = []
    for number in range(first, first + count):
        for side in (0, 1):
            save_picture(media / f"{number}-{side}.png", seed=2 * number + side)
        rows.append(
            {
                "prompt": PROMPTS[number % len(PROMPTS)],
                "candidates": [{"image": f"{number}-0.png"}, {"image": f"{number}-1.png"}],
                "judgements": [{"choice": number % 2, "annotator": "ann"}],
            }
        )
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@contextmanager
def cancelled_after(last: int) -> Iterator[None]:
    """Runs are cancelled at the end of this step."""
    end_step = Run.end_step

    def stop(self: Run, step: int) -> None:
        if step == last:
            self.dir.cancel_file.touch()
        end_step(self, step)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "end_step", stop)
        yield


def run(folder: Path) -> int:
    """Train in this process; returns the exit code."""
    return main([str(folder)])


def metrics(folder: Path) -> list[dict[str, Any]]:
    return read_rows(folder / "metrics.jsonl")


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
