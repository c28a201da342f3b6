"""Does the cost of a token depend on how many pairs there are, and how long is it until the first step?

DPO on a tiny Llama through the whole path of a run (reading, checking, hashing, tokenising, planning, the
cached reference where there is one) with 1,000, 10,000 and 100,000 pairs of the same lengths. Every run has a
process of its own with one thread. What comes before the first optimizer step is timed in CPU seconds, over
the tokens of the data; what a step costs is the mean over the steps after it, over their tokens. The cached
reference reads all the data once and is measured up to the number of pairs that ``--cached`` says. Start-up
is by the clock, from when a worker starts a run to the end of its first step with 1,000 pairs, the fastest
of three, on a live reference: nothing of the data but that step's batch is read by a model. A worker forks a
run from a process that has loaded the libraries (``training.tuning.warm``); beside it stands what a run takes
as a process of its own, imports and all, as one started by hand.

    python -m benchmarks.text_scaling [--pairs 1000 10000 100000] [--cached 10000] [--write FILE]
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import steps
from training.tuning.warm_start import Warm

PROMPT, ANSWER, STEPS = (16, 48), (8, 24), 60
FLAT, START = 1.15, 5.0  # most over the cost with the fewest pairs; seconds
STARTS = 3


def main() -> int:
    """Measure, print, and say by the exit code whether cost is flat and the start fast."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--cached", type=int, default=10_000)
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    parser.add_argument("--child", type=Path, metavar="RUN", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(train(options.child)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tiny(folder / "model")
        start = time_starts(folder, min(options.pairs))
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
    return 0 if start["warm"] <= START and all(value <= FLAT for value in growth(found).values()) else 1


def save_tiny(folder: Path) -> None:
    """A Llama so small that what surrounds it shows."""
    steps.save_llama(folder, hidden_size=64, intermediate_size=160, num_hidden_layers=2)


def measure(folder: Path, pairs: int, reference: str) -> dict[str, Any]:
    """One run in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        run = lay_out(folder, Path(name), pairs, reference)
        command = [sys.executable, "-m", "benchmarks.text_scaling", "--child", str(run)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread())
    if done.returncode:
        raise SystemExit(f"{pairs} pairs, {reference}, failed:\n{done.stderr[-3000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    found |= {"pairs": pairs, "reference": reference}
    print(found, file=sys.stderr)
    return found


def lay_out(folder: Path, run: Path, pairs: int, reference: str) -> Path:
    """A run directory for these pairs."""
    data = folder / f"rows-{pairs}.jsonl"
    if not data.exists():
        steps.write_pairs(data, prompt=PROMPT, answer=ANSWER, rows=pairs)
    (run / "data").mkdir()
    (run / "data" / "train.jsonl").hardlink_to(data)
    config = steps.OURS | {"reference": reference, "samples": 0, "max_steps": full_epoch(pairs)}
    spec = {"method": "dpo", "config": config, "base": str(folder / "model"), "seed": 0}
    (run / "run.json").write_text(json.dumps(spec))
    return run


def one_thread() -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}


def time_starts(folder: Path, pairs: int) -> dict[str, float]:
    """Seconds to the end of the first step: ``warm`` as a worker starts runs, ``cold`` from nothing."""
    warm = Warm(one_thread())
    found: dict[str, list[float]] = {"cold": [], "warm": []}
    try:
        while not warm.serves(one_thread()):
            if warm.is_gone:
                raise SystemExit("the process that starts runs has ended")
            time.sleep(0.1)
        for number in range(2 * STARTS):
            kind = ("cold", "warm")[number % 2]
            with tempfile.TemporaryDirectory(dir=folder) as name:
                run = lay_out(folder, Path(name), pairs, "live")
                found[kind].append(time_start(run, warm if kind == "warm" else None))
            print(f"{kind} start: {found[kind][-1]:.2f} s", file=sys.stderr)
    finally:
        warm.close()
    return {kind: min(times) for kind, times in found.items()}


def time_start(run: Path, warm: Warm | None) -> float:
    """Seconds until the first step is logged; the run is killed then."""
    began = time.monotonic()
    if warm is None:
        command = [sys.executable, "-P", "-m", "training.tuning", "."]
        pid = subprocess.Popen(command, cwd=run, env=one_thread(), start_new_session=True).pid
    else:
        forked = warm.fork(run, run / "output.txt")
        if forked is None:
            raise SystemExit("the process that starts runs has ended")
        pid = forked.pid
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").stat().st_size:
        time.sleep(0.005)
        if time.monotonic() - began > 600:
            raise SystemExit("a run did not come to its first step")
    took = time.monotonic() - began
    os.killpg(pid, signal.SIGKILL)
    if warm is None:
        os.waitpid(pid, 0)
    else:
        forked.wait(60)
    return took


def full_epoch(pairs: int) -> int:
    """Steps that read every pair once: the plan, and what is cached, are those of a real run."""
    return -(-pairs // steps.BATCH)


def train(run: Path) -> dict[str, Any]:
    """The first steps of a run, timed from inside; the run is given up after them."""
    from training.tuning.__main__ import main as command
    from training.tuning.errors import Stopped
    from training.tuning.run import Run
    from training.tuning.throughput import Throughput

    marks: list[tuple[float, float]] = []

    def end_step(self: Run, step: int) -> None:
        marks.append((time.process_time(), Throughput.total))
        if step >= STEPS:
            raise Stopped("interrupted")

    Run.end_step = end_step  # type: ignore[method-assign]
    count_tokens()
    command([str(run)])
    (before, tokens), (end, tokens_end) = marks[0], marks[-1]
    return {
        "before": before,
        "step": (end - before) / (tokens_end - tokens) * 1e6,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


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


def describe(found: list[dict[str, Any]], start: dict[str, float]) -> str:
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
        f"- from the start of a run to the end of its first step, by the clock: **{start['warm']:.1f} s** in "
        f"a worker (at most {START:g}), {start['cold']:.1f} s as a process of its own; fastest of {STARTS}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
