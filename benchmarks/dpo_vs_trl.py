"""DPO pairs per second and peak memory against TRL's DPOTrainer: the same model, rows, batches and losses.

Loading, tokenising and precomputing the reference are not timed; see ``steps`` for how time and memory are
taken.

    python -m benchmarks.dpo_vs_trl [--shape mixed|long_prompt] [--rounds 3] [--write FILE]

With long prompts and short answers the count of tokens bounds what sharing a prompt can give: the report
says by how much.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import steps
from benchmarks.steps import ANSWER, BATCH, PROMPT, Clock

ROWS = 24
VARIANTS = ["trl", "trl_precomputed", "tiebreak_live", "tiebreak"]


@dataclass(frozen=True)
class Shape:
    """Tokens of prompts and of answers, their end token included (least and most), and what to reach."""

    prompt: tuple[int, int]
    answer: tuple[int, int]
    targets: dict[str, float]


SHAPES = {
    "mixed": Shape(PROMPT, ANSWER, {"speed_default": 5.0, "speed_precomputed": 4.5, "memory": 0.45}),
    "long_prompt": Shape((1024, 1024), (64, 64), {"speed_default": 3.5}),
}


def main() -> int:
    """Measure all variants and print the ratios; exit code 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="mixed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    parser.add_argument("--child", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(CHILDREN[options.child](options.folder)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = SHAPES[options.shape]
        steps.save_llama(folder / "model")
        steps.write_pairs(folder / "rows.jsonl", prompt=shape.prompt, answer=shape.answer, rows=ROWS)
        floor = steps.token_share(steps.read(folder / "rows.jsonl"))
        best = steps.measure("dpo_vs_trl", VARIANTS, folder, rounds=options.rounds)
    ratios = compare(best)
    report = describe(best, ratios, shape=options.shape, rounds=options.rounds, floor=floor)
    print(report)
    if options.write:
        options.write.write_text(report + "\n", encoding="utf-8")
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()}))
    return 0 if met(ratios, SHAPES[options.shape].targets) else 1


def compare(best: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Ratios of ours to TRL's, and the largest difference of a step's loss."""
    speed = {name: found["pairs_per_second"] for name, found in best.items()}
    memory = {name: found["peak_mib"] for name, found in best.items()}
    losses = {name: found["logged"] for name, found in best.items()}
    return {
        "speed_default": speed["tiebreak"] / speed["trl"],
        "speed_default_live": speed["tiebreak_live"] / speed["trl"],
        "speed_precomputed": speed["tiebreak"] / speed["trl_precomputed"],
        "memory": memory["tiebreak"] / min(memory["trl"], memory["trl_precomputed"]),
        "loss_difference": max(
            abs(one - other)
            for ours in ("tiebreak", "tiebreak_live")
            for one, other in zip(losses[ours], losses["trl"], strict=True)
        ),
    }


def met(ratios: dict[str, float], targets: dict[str, float]) -> bool:
    """Whether every target is reached, with the same losses."""
    reached = [
        ratios[name] <= target if name == "memory" else ratios[name] >= target
        for name, target in targets.items()
    ]
    return all(reached) and ratios["loss_difference"] < 1e-4


def describe(
    best: dict[str, dict[str, Any]], ratios: dict[str, float], *, shape: str, rounds: int, floor: float
) -> str:
    """The result as Markdown."""
    of, targets = SHAPES[shape], SHAPES[shape].targets
    lines = [
        f"# DPO against TRL, {shape.replace('_', ' ')}",
        "",
        f"`python -m benchmarks.dpo_vs_trl --shape {shape} --rounds {rounds}`: Llama of 10.6 M parameters, "
        f"all trained, float32; prompts of {of.prompt[0]} to {of.prompt[1]} tokens, answers of "
        f"{of.answer[0]} to {of.answer[1]}, batch {BATCH}, {ROWS} pairs. The fastest of {rounds} rounds; "
        "peak memory of the whole process.",
        "",
        steps.machine(),
        "",
        "| variant | pairs per CPU second | peak MiB |",
        "| --- | --- | --- |",
    ]
    names = {
        "trl": "TRL DPOTrainer, default",
        "trl_precomputed": "TRL, precomputed reference",
        "tiebreak_live": "Tiebreak, live reference",
        "tiebreak": "Tiebreak, cached reference (default)",
    }
    for variant, name in names.items():
        found = best[variant]
        lines.append(f"| {name} | {found['pairs_per_second']:.2f} | {found['peak_mib']:.0f} |")
    lines += [
        "",
        f"- × TRL's default: **{ratios['speed_default']:.2f}**{goal(targets, 'speed_default')}; with a "
        f"live reference {ratios['speed_default_live']:.2f}",
        f"- × TRL's precomputed reference: **{ratios['speed_precomputed']:.2f}**"
        f"{goal(targets, 'speed_precomputed')}",
        f"- × TRL's peak memory, the smaller one: **{ratios['memory']:.2f}**{goal(targets, 'memory')}",
        f"- by tokens alone, its own over ours: {floor:.2f} for one model, and "
        f"{floor * 4 / 3:.2f} against its default, whose reference reads them all once more",
        f"- largest difference of a step's loss: {ratios['loss_difference']:.1e}",
    ]
    return "\n".join(lines)


def goal(targets: dict[str, float], name: str) -> str:
    """The target in brackets, if the shape has one."""
    return f" (target {targets[name]})" if name in targets else ""


def train_tiebreak(folder: Path, *, reference: str) -> dict[str, Any]:
    """Ours, with a live or a cached reference."""
    config = {"reference": reference, "samples": 0}
    return steps.train_tiebreak(folder, "dpo", config, rows=(folder / "rows.jsonl").read_text())


def train_trl(folder: Path, *, precompute: bool) -> dict[str, Any]:
    """TRL's, on the batches of our plan in our order."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from training.tuning.config import DPOConfig as Ours

    rows = steps.read(folder / "rows.jsonl")
    clock, losses = Clock(), list[float]()
    trainer = DPOTrainer(
        model=str(folder / "model"),
        args=DPOConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=BATCH,
            train_sampling_strategy="sequential",
            precompute_ref_log_probs=precompute,
            max_length=None,
            **steps.THEIRS,
        ),
        train_dataset=Dataset.from_list(
            [rows[index] for index in steps.order_of(Ours(batch_size=BATCH), len(rows))]
        ),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[steps.watcher(clock, losses)],
    )
    trainer.train()
    return clock.result(losses)


CHILDREN: dict[str, Callable[[Path], dict[str, Any]]] = {
    "trl": lambda folder: train_trl(folder, precompute=False),
    "trl_precomputed": lambda folder: train_trl(folder, precompute=True),
    "tiebreak_live": lambda folder: train_tiebreak(folder, reference="live"),
    "tiebreak": lambda folder: train_tiebreak(folder, reference="cached"),
}

if __name__ == "__main__":
    sys.exit(main())
