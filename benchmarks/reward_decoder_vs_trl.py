"""Reward pairs per second and peak memory on a decoder against TRL's RewardTrainer: the same model, head,
rows, batches and losses.

Prompts and answers are as long as those of ``dpo_vs_trl``; see ``steps`` for how time and memory are taken.

    python -m benchmarks.reward_decoder_vs_trl [--rounds 3] [--write FILE]
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import steps
from benchmarks.steps import ANSWER, BATCH, PROMPT, Clock

ROWS = 24
VARIANTS = ["trl", "tiebreak"]
TARGETS = {"speed": 2.0, "memory": 0.45}


def main() -> int:
    """Measure both and print the ratios; exit code 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
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
        steps.save_llama(folder / "model", reward=True)
        steps.write_pairs(folder / "rows.jsonl", prompt=PROMPT, answer=ANSWER, rows=ROWS)
        floor = steps.token_share(steps.read(folder / "rows.jsonl"))
        best = steps.measure("reward_decoder_vs_trl", VARIANTS, folder, rounds=options.rounds)
    ours, theirs = best["tiebreak"], best["trl"]
    ratios = {
        "speed": ours["pairs_per_second"] / theirs["pairs_per_second"],
        "memory": ours["peak_mib"] / theirs["peak_mib"],
        "loss_difference": max(
            abs(one - other) for one, other in zip(ours["logged"], theirs["logged"], strict=True)
        ),
    }
    report = describe(best, ratios, rounds=options.rounds, floor=floor)
    print(report)
    if options.write:
        options.write.write_text(report + "\n", encoding="utf-8")
    print(json.dumps({name: round(value, 5) for name, value in ratios.items()}))
    fast = ratios["speed"] >= TARGETS["speed"] and ratios["memory"] <= TARGETS["memory"]
    return 0 if fast and ratios["loss_difference"] < 1e-4 else 1


def describe(best: dict[str, dict[str, Any]], ratios: dict[str, float], *, rounds: int, floor: float) -> str:
    """The result as Markdown."""
    names = {"trl": "TRL RewardTrainer", "tiebreak": "Tiebreak"}
    return "\n".join(
        [
            "# A reward model on a decoder against TRL",
            "",
            f"`python -m benchmarks.reward_decoder_vs_trl --rounds {rounds}`: Llama of 8.5 M parameters with "
            f"a head, all trained, float32; prompts of {PROMPT[0]} to {PROMPT[1]} tokens, answers of "
            f"{ANSWER[0]} to {ANSWER[1]}, batch {BATCH}, {ROWS} pairs. The fastest of {rounds} rounds; peak "
            "memory of the whole process.",
            "",
            steps.machine(),
            "",
            "| variant | pairs per CPU second | peak MiB |",
            "| --- | --- | --- |",
            *(
                f"| {name} | {best[variant]['pairs_per_second']:.2f} | {best[variant]['peak_mib']:.0f} |"
                for variant, name in names.items()
            ),
            "",
            f"- × TRL's speed: **{ratios['speed']:.2f}** (target {TARGETS['speed']}); by tokens alone, its "
            f"own, padded, over ours, {floor:.2f}",
            f"- × TRL's peak memory: **{ratios['memory']:.2f}** (target {TARGETS['memory']})",
            f"- largest difference of a step's loss: {ratios['loss_difference']:.1e}",
        ]
    )


def train_tiebreak(folder: Path) -> dict[str, Any]:
    """Ours, on the head that the folder has."""
    return steps.train_tiebreak(folder, "reward_model", {}, rows=(folder / "rows.jsonl").read_text())


def train_trl(folder: Path) -> dict[str, Any]:
    """TRL's, on the batches of our plan in our order."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    from training.tuning.config import RewardModelConfig

    rows = steps.read(folder / "rows.jsonl")
    order = steps.order_of(RewardModelConfig(batch_size=BATCH), len(rows))
    clock, losses = Clock(), list[float]()
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(folder / "model"),
        args=RewardConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=BATCH,
            train_sampling_strategy="sequential",
            max_length=None,
            **steps.THEIRS,
        ),
        train_dataset=Dataset.from_list([rows[index] for index in order]),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[steps.watcher(clock, losses)],
    )
    trainer.train()
    return clock.result(losses)


CHILDREN = {"trl": train_trl, "tiebreak": train_tiebreak}

if __name__ == "__main__":
    sys.exit(main())
