"""DPO pairs per second and peak memory against TRL's DPOTrainer: the same model, rows, batches and losses.

Every variant runs in a process of its own, so that its peak memory is its own, with one thread, and is
timed in CPU seconds: what else the machine does then counts for little. All run in turn, several rounds;
the fastest of each counts. Timed are the optimizer steps after the first; loading, tokenising and
precomputing the reference are not. TRL runs in float32 without activation checkpointing, its fastest
mode.

    python -m benchmarks.dpo_vs_trl [--shape mixed|long_prompt] [--rounds 3] [--write FILE]

With long prompts and short answers the count of tokens bounds what sharing a prompt can give: the report
says by how much.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCABULARY, ROWS, BATCH = 8_000, 24, 8
LEARNING_RATE = 1e-5
VARIANTS = ["trl", "trl_precomputed", "tiebreak_live", "tiebreak"]


@dataclass(frozen=True)
class Shape:
    """Tokens of prompts and of answers, their end token included (least and most), and what to reach."""

    prompt: tuple[int, int]
    answer: tuple[int, int]
    targets: dict[str, float]


SHAPES = {
    "mixed": Shape((64, 384), (16, 128), {"speed_default": 5.0, "speed_precomputed": 4.5, "memory": 0.45}),
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
        prepare(folder, SHAPES[options.shape])
        best = measure(folder, rounds=options.rounds)
        floor = token_share(folder)
    ratios = compare(best)
    report = describe(best, ratios, shape=options.shape, rounds=options.rounds, floor=floor)
    print(report)
    if options.write:
        options.write.write_text(report + "\n", encoding="utf-8")
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()}))
    return 0 if met(ratios, SHAPES[options.shape].targets) else 1


def prepare(folder: Path, shape: Shape) -> None:
    """A Llama of 10.6 M parameters, and rows whose prompts and answers have exact lengths in tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"w{number}": number + 3 for number in range(VOCABULARY)}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=256,
        intermediate_size=720,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    write_rows(folder / "rows.jsonl", shape)


def write_rows(path: Path, shape: Shape) -> None:
    """Rows of the shape's lengths, drawn evenly."""
    rng = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{rng.randrange(VOCABULARY)}" for _ in range(count))

    rows = [
        {
            "prompt": words(rng.randint(*shape.prompt)) + " ",
            "chosen": words(rng.randint(*shape.answer) - 1),
            "rejected": words(rng.randint(*shape.answer) - 1),
        }
        for _ in range(ROWS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def measure(folder: Path, *, rounds: int) -> dict[str, dict[str, Any]]:
    """The fastest round of every variant."""
    best: dict[str, dict[str, Any]] = {}
    for number in range(rounds):
        for variant in VARIANTS:
            command = [
                sys.executable,
                "-m",
                "benchmarks.dpo_vs_trl",
                "--child",
                variant,
                "--folder",
                str(folder),
            ]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                raise SystemExit(f"{variant} failed:\n{done.stderr[-3000:]}")
            found = json.loads(done.stdout.strip().splitlines()[-1])
            print(
                f"round {number + 1} {variant:16} {found['pairs_per_second']:6.2f} pairs per CPU s "
                f"({found['wall_seconds']:.1f} s on the wall) {found['peak_mib']:6.0f} MiB",
                file=sys.stderr,
            )
            known = best.get(variant)
            if known is None or found["pairs_per_second"] > known["pairs_per_second"]:
                best[variant] = found
    return best


def compare(best: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Ratios of ours to TRL's, and the largest difference of a step's loss."""
    speed = {name: found["pairs_per_second"] for name, found in best.items()}
    memory = {name: found["peak_mib"] for name, found in best.items()}
    losses = {name: found["losses"] for name, found in best.items()}
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


def token_share(folder: Path) -> float:
    """Tokens that TRL computes for a pair, its padding included, over ours: the prompt once, no padding."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    lengths = [[len(row[key].split()) for key in ("prompt", "chosen", "rejected")] for row in rows]
    theirs = ours = 0
    for at in range(0, len(rows), BATCH):
        batch = lengths[at : at + BATCH]
        longest = max(prompt + max(chosen, rejected) + 1 for prompt, chosen, rejected in batch)
        theirs += 2 * len(batch) * longest
        ours += sum(prompt + chosen + rejected + 2 for prompt, chosen, rejected in batch)
    return theirs / ours


def describe(
    best: dict[str, dict[str, Any]], ratios: dict[str, float], *, shape: str, rounds: int, floor: float
) -> str:
    """The result as Markdown."""
    import torch
    import transformers
    import trl

    of, targets = SHAPES[shape], SHAPES[shape].targets
    lines = [
        f"# DPO against TRL, {shape.replace('_', ' ')}",
        "",
        f"`python -m benchmarks.dpo_vs_trl --shape {shape} --rounds {rounds}`: Llama of 10.6 M parameters, "
        f"all trained, float32; prompts of {of.prompt[0]} to {of.prompt[1]} tokens, answers of "
        f"{of.answer[0]} to {of.answer[1]}, batch {BATCH}, {ROWS} pairs. The fastest of {rounds} rounds; "
        "peak memory of the whole process.",
        "",
        f"{os.cpu_count()} CPU cores ({platform.machine()}), one thread per variant, Python "
        f"{platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"trl {trl.__version__}.",
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


class Clock:
    """Wall and CPU time of the steps after the first."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def result(self, losses: list[float]) -> dict[str, Any]:
        pairs = BATCH * (len(self.marks) - 1)
        (wall, cpu), (wall_end, cpu_end) = self.marks[0], self.marks[-1]
        return {
            "pairs": pairs,
            "pairs_per_second": pairs / (cpu_end - cpu),
            "wall_seconds": wall_end - wall,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "losses": losses,
        }


def train_tiebreak(folder: Path, *, reference: str) -> dict[str, Any]:
    """Ours, through the command line's entry point."""
    from training.tuning.__main__ import main as command
    from training.tuning.run import Run

    run = folder / f"run-{reference}-{os.getpid()}"
    (run / "data").mkdir(parents=True)
    config = {
        "learning_rate": LEARNING_RATE,
        "batch_size": BATCH,
        "lora": None,
        "reference": reference,
        "scheduler": "constant",
        "warmup": 0,
        "log_every": 1,
        "samples": 0,
        "max_length": 2048,
    }
    spec = {"method": "dpo", "config": config, "base": str(folder / "model"), "seed": 0}
    (run / "run.json").write_text(json.dumps(spec))
    (run / "data" / "train.jsonl").write_text((folder / "rows.jsonl").read_text())
    clock, end_step = Clock(), Run.end_step

    def timed(self: Run, step: int) -> None:
        clock.mark()
        if step < self.total_steps:  # what is saved after the last step is not training
            end_step(self, step)

    Run.end_step = timed  # type: ignore[method-assign]
    Run.publish = lambda *args, **options: None  # type: ignore[method-assign,assignment]
    if command([str(run)]):
        raise SystemExit("our run failed")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return clock.result([json.loads(line)["loss"] for line in lines])


def train_trl(folder: Path, *, precompute: bool) -> dict[str, Any]:
    """TRL's, on the batches of our plan in our order."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from training.tuning.config import DPOConfig as Ours
    from training.tuning.plan import make_plan

    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    plan = make_plan([1] * ROWS, config=Ours(batch_size=BATCH), seed=0, budget=ROWS)
    order = [index for step in range(1, plan.total_steps + 1) for micro in plan.step(step) for index in micro]
    clock, losses = Clock(), []

    class Marks(TrainerCallback):
        def on_step_end(self, *args: Any, **options: Any) -> None:
            clock.mark()

        def on_log(self, *args: Any, logs: dict[str, float], **options: Any) -> None:
            if "loss" in logs:
                losses.append(logs["loss"])

    trainer = DPOTrainer(
        model=str(folder / "model"),
        args=DPOConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=BATCH,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            precompute_ref_log_probs=precompute,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            seed=0,
            max_length=None,
        ),
        train_dataset=Dataset.from_list([rows[index] for index in order]),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[Marks()],
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
