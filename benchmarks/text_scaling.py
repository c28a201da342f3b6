"""Does the cost of a token depend on how many pairs there are, and how long is it until the first step?

DPO on a tiny Llama through the whole path of a run (reading, checking, hashing, tokenising, planning, the
cached reference where there is one) with 1,000, 10,000 and 100,000 pairs of the same lengths. Every run has a
process of its own with one thread. What comes before the first optimizer step is timed in CPU seconds, over
the tokens of the data; what a step costs is the mean over the steps after it, over their tokens. The cached
reference reads all the data once and is measured up to the number of pairs that ``--cached`` says. Start-up
is from the start of the process, imports and all, to the end of the first step with 1,000 pairs, the fastest
of three, on a live reference: nothing of the data but that step's batch is read by a model. It is taken in
CPU seconds too; with nothing else to do a machine's wall clock shows little more.

    python -m benchmarks.text_scaling [--pairs 1000 10000 100000] [--cached 10000] [--write FILE]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import steps

PROMPT, ANSWER, STEPS = (16, 48), (8, 24), 60
FLAT, START = 1.15, 5.0  # most over the cost with the fewest pairs; seconds


def main() -> int:
    """Measure, print, and say by the exit code whether cost is flat and the start fast."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--cached", type=int, default=10_000)
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    parser.add_argument("--child", nargs=2, metavar=("RUN", "STEPS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(train(Path(options.child[0]), int(options.child[1]))))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny(folder / "model")
        starts = [measure(folder, min(options.pairs), "live", steps_=1) for _ in range(3)]
        start = min(starts, key=lambda found: found["before"])
        found = [
            measure(folder, pairs, reference)
            for pairs in options.pairs
            for reference in ("live", "cached")
            if reference == "live" or pairs <= options.cached
        ]
    report = describe(found, start)
    print(report)
    if options.write:
        options.write.write_text(report + "\n", encoding="utf-8")
    return 0 if start["before"] <= START and all(value <= FLAT for value in growth(found).values()) else 1


def save_tiny(folder: Path) -> None:
    """A Llama so small that what surrounds it shows."""
    steps.save_llama(folder, hidden_size=64, intermediate_size=160, num_hidden_layers=2)


def measure(folder: Path, pairs: int, reference: str, *, steps_: int = STEPS) -> dict[str, Any]:
    """One run in a process of its own."""
    data = folder / f"rows-{pairs}.jsonl"
    if not data.exists():
        steps.write_pairs(data, prompt=PROMPT, answer=ANSWER, rows=pairs)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        run = Path(name)
        (run / "data").mkdir()
        (run / "data" / "train.jsonl").hardlink_to(data)
        config = steps.OURS | {"reference": reference, "samples": 0, "max_steps": full_epoch(pairs)}
        spec = {"method": "dpo", "config": config, "base": str(folder / "model"), "seed": 0}
        (run / "run.json").write_text(json.dumps(spec))
        command = [sys.executable, "-m", "benchmarks.text_scaling", "--child", str(run), str(steps_)]
        began = time.time()
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
    if done.returncode:
        raise SystemExit(f"{pairs} pairs, {reference}, failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    found |= {"pairs": pairs, "reference": reference, "start": found["first_step_at"] - began}
    print({key: value for key, value in found.items() if key != "first_step_at"}, file=sys.stderr)
    return found


def full_epoch(pairs: int) -> int:
    """Steps that read every pair once: the plan, and what is cached, are those of a real run."""
    return -(-pairs // steps.BATCH)


def train(run: Path, count: int) -> dict[str, Any]:
    """The first ``count`` steps of a run, timed from inside; the run is given up after them."""
    from training.tuning.__main__ import main as command
    from training.tuning.errors import Stopped
    from training.tuning.run import Run
    from training.tuning.throughput import Throughput

    marks: list[tuple[float, float, float]] = []

    def end_step(self: Run, step: int) -> None:
        marks.append((time.time(), time.process_time(), Throughput.total))
        if step >= count:
            raise Stopped("interrupted")

    Run.end_step = end_step  # type: ignore[method-assign]
    count_tokens()
    command([str(run)])
    (wall, cpu, tokens), (_, cpu_end, tokens_end) = marks[0], marks[-1]
    found = {"first_step_at": wall, "before": cpu}
    if count > 1:
        found["step"] = (cpu_end - cpu) / (tokens_end - tokens) * 1e6
    return found | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def count_tokens() -> None:
    """Let ``Throughput`` keep the sum over all steps as well."""
    from training.tuning.throughput import Throughput

    add = Throughput.add

    def adding(self: Throughput, tokens: int) -> None:
        Throughput.total += tokens  # type: ignore[attr-defined]
        add(self, tokens)

    Throughput.total = 0  # type: ignore[attr-defined]
    Throughput.add = adding  # type: ignore[method-assign]


def growth(found: list[dict[str, Any]]) -> dict[str, float]:
    """The cost of a token with the most pairs over that with the fewest: of a step, and of what is done for
    each pair before the first step (from the differences of neighbouring sizes, so that what every run pays
    once is left out).
    """
    ratios = {}
    for reference in ("live", "cached"):
        rows = [row for row in found if row["reference"] == reference]
        if len(rows) > 1:
            ratios[f"step, {reference}"] = rows[-1]["step"] / rows[0]["step"]
        slopes = [
            (many["before"] - few["before"]) / (many["pairs"] - few["pairs"]) for few, many in pairwise(rows)
        ]
        if len(slopes) > 1:
            ratios[f"before the first step, {reference}"] = slopes[-1] / slopes[0]
    return ratios


def describe(found: list[dict[str, Any]], start: dict[str, Any]) -> str:
    """The result as Markdown."""
    sizes = " ".join(str(size) for size in sorted({row["pairs"] for row in found}))
    cached = max((row["pairs"] for row in found if row["reference"] == "cached"), default=0)
    lines = [
        "# The cost of a token, from few pairs to many",
        "",
        f"`python -m benchmarks.text_scaling --pairs {sizes} --cached {cached}`: DPO on a Llama with 2 "
        f"layers of 64; prompts of {PROMPT[0]} to {PROMPT[1]} tokens, answers of {ANSWER[0]} to {ANSWER[1]}, "
        f"batch {steps.BATCH}, {STEPS} steps of an epoch.",
        "",
        steps.machine(),
        "",
        "| pairs | reference | CPU s before the first step | CPU µs per token of a step | peak MiB |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {row['pairs']:,} | {row['reference']} | {row['before']:.1f} | {row['step']:.0f} | "
            f"{row['peak_mib']:.0f} |"
            for row in found
        ),
        "",
        *(f"- {name}: **{value:.2f}** × (at most {FLAT})" for name, value in growth(found).items()),
        f"- from the start of the process to the end of the first step: **{start['before']:.1f} CPU s** "
        f"(at most {START:g}), {start['start']:.1f} s on the wall",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
