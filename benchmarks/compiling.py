"""Compiled norms and feed-forward parts (`training.tuning.text.compiling`) against the same without.

Two Llamas alike with an adapter on every layer compute in turns a forward pass, and one with its backward
pass, ``--rounds`` times each; told is the ratio of the medians, and what compiling took. One thread, CPU
seconds, float32.

    python -m benchmarks.compiling [--rounds 10] [--write FILE]
"""

import argparse
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.fused_lora import llama, ratio
from training.tuning.fused_lora import fuse_adapters
from training.tuning.text.compiling import compile_parts


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for width in (256, 768):
        (model, plain), (other, compiled) = llama(width), llama(width)
        for one in (model, other):
            fuse_adapters(one)
        compile_parts(other, torch.device("cpu"))
        start = time.monotonic()
        compiled().sum().backward()
        with torch.no_grad():
            compiled()
        seconds = time.monotonic() - start
        trained, read = (
            ratio(plain, compiled, train=train, rounds=options.rounds) for train in (True, False)
        )
        lines.append(f"| Llama, width {width}, six layers | {trained:.2f} | {read:.2f} | {seconds:.0f} |")
    report = "\n".join(
        [
            "# Compiled norms and feed-forward parts",
            "",
            f"`python -m benchmarks.compiling --rounds {options.rounds}`: as fast as without, times.",
            "",
            f"{os.cpu_count()} CPU cores ({platform.machine()}), one thread, torch {version('torch')}.",
            "",
            "| model | forward and backward | forward | seconds until the first pass |",
            "| --- | --- | --- | --- |",
            *lines,
        ]
    )
    print(report)
    if options.write:
        options.write.write_text(report + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
