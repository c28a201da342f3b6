"""What the benchmarks of optimizer steps against TRL share: a model, lengths, processes and clocks.

Every variant runs in a process of its own, so that its peak memory is its own, with one thread, and is timed
in CPU seconds: what else the machine does then counts for little. All run in turn, several rounds; the
fastest of each counts. Timed are the optimizer steps after the first.
"""

import json
import os
import platform
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

VOCABULARY, BATCH = 8_000, 8
LEARNING_RATE = 1e-5
# Tokens, least and most; answers with their end token.
PROMPT, ANSWER = (64, 384), (16, 128)


def save_llama(folder: Path, *, reward: bool = False, **changes: int) -> None:
    """A Llama of 10.6 M parameters whose words are a token each; as a reward model with a head.

    ``changes`` are keys of its config.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        PreTrainedTokenizerFast,
    )

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"w{number}": number + 3 for number in range(VOCABULARY)}
    plain = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "vocab_size": len(words),
        "hidden_size": 256,
        "intermediate_size": 720,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    if reward:
        options["num_labels"] = 1
    config = LlamaConfig(**(options | changes))
    (LlamaForSequenceClassification if reward else LlamaForCausalLM)(config).save_pretrained(folder)


def words(rng: random.Random, lengths: tuple[int, int], *, less: int = 0) -> str:
    """So many words, drawn evenly, ``less`` a few."""
    return " ".join(f"w{rng.randrange(VOCABULARY)}" for _ in range(rng.randint(*lengths) - less))


def write_pairs(path: Path, *, prompt: tuple[int, int], answer: tuple[int, int], rows: int) -> None:
    """Rows of a prompt, a chosen and a rejected answer of these lengths, drawn evenly."""
    rng = random.Random(0)
    found = [
        {
            "prompt": words(rng, prompt) + " ",
            "chosen": words(rng, answer, less=1),
            "rejected": words(rng, answer, less=1),
        }
        for _ in range(rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def measure(module: str, variants: list[str], folder: Path, *, rounds: int) -> dict[str, dict[str, Any]]:
    """The fastest round of every variant, each as ``python -m benchmarks.MODULE --child VARIANT``."""
    best: dict[str, dict[str, Any]] = {}
    for number in range(rounds):
        for variant in variants:
            command = [sys.executable, "-m", f"benchmarks.{module}", "--child", variant, "--folder"]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [*command, str(folder)], capture_output=True, text=True, check=False, env=environment
            )
            if done.returncode:
                raise SystemExit(f"{variant} failed:\n{done.stderr[-3000:]}")
            found = json.loads(done.stdout.strip().splitlines()[-1])
            print(
                f"round {number + 1} {variant:16} {found['pairs_per_second']:6.2f} per CPU s "
                f"({found['wall_seconds']:.1f} s on the wall) {found['peak_mib']:6.0f} MiB",
                file=sys.stderr,
            )
            known = best.get(variant)
            if known is None or found["pairs_per_second"] > known["pairs_per_second"]:
                best[variant] = found
    return best


def machine() -> str:
    """A sentence on where a result comes from."""
    from importlib.metadata import version

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    return (
        f"{os.cpu_count()} CPU cores ({platform.machine()}), one thread per variant, Python "
        f"{platform.python_version()}, {versions}."
    )


class Clock:
    """Wall and CPU time of the steps after the first."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        self.marks.append((time.perf_counter(), time.process_time()))

    def result(self, logged: list[float]) -> dict[str, Any]:
        pairs = BATCH * (len(self.marks) - 1)
        (wall, cpu), (wall_end, cpu_end) = self.marks[0], self.marks[-1]
        return {
            "pairs": pairs,
            "pairs_per_second": pairs / (cpu_end - cpu),
            "wall_seconds": wall_end - wall,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "logged": logged,
        }


OURS = {
    "learning_rate": LEARNING_RATE,
    "batch_size": BATCH,
    "lora": None,
    "scheduler": "constant",
    "warmup": 0,
    "log_every": 1,
    "max_length": 2048,
}


def train_tiebreak(
    folder: Path, method: str, config: dict[str, Any], *, rows: str, column: str = "loss", **spec: Any
) -> dict[str, Any]:
    """Ours, through the command line's entry point; what comes after the last step is not training."""
    from training.tuning.__main__ import main as command
    from training.tuning.run import Run

    run = folder / f"run-{os.getpid()}"
    (run / "data").mkdir(parents=True)
    found = {"method": method, "config": OURS | config, "base": str(folder / "model"), "seed": 0}
    (run / "run.json").write_text(json.dumps(found | spec))
    (run / "data" / "train.jsonl").write_text(rows)
    clock, end_step = Clock(), Run.end_step

    def timed(self: Run, step: int) -> None:
        clock.mark()
        if step < self.total_steps:
            end_step(self, step)

    Run.end_step = timed  # type: ignore[method-assign]
    Run.publish = lambda *args, **options: None  # type: ignore[method-assign,assignment]
    if command([str(run)]):
        raise SystemExit("our run failed")
    return clock.result([row[column] for row in read(run / "metrics.jsonl")])


# What TRL's trainers are told, whichever it is: float32 without activation checkpointing, its fastest mode.
THEIRS = {
    "learning_rate": LEARNING_RATE,
    "lr_scheduler_type": "constant",
    "num_train_epochs": 1,
    "gradient_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 0,
}


def order_of(config: Any, rows: int) -> list[int]:
    """The rows in the order of our plan, so that TRL gets our batches."""
    from training.tuning.plan import make_plan

    plan = make_plan([1] * rows, config=config, seed=0, budget=rows)
    return [index for step in range(1, plan.total_steps + 1) for micro in plan.step(step) for index in micro]


def watcher(clock: Clock, logged: list[float], *, column: str = "loss") -> Any:
    """A callback for TRL's trainers that marks the clock and keeps what is logged."""
    from transformers import TrainerCallback

    class Marks(TrainerCallback):
        def on_step_end(self, *args: Any, **options: Any) -> None:
            clock.mark()

        def on_log(self, *args: Any, logs: dict[str, float], **options: Any) -> None:
            if column in logs:
                logged.append(logs[column])

    return Marks()


def token_share(rows: list[dict[str, Any]]) -> float:
    """Tokens that TRL computes for pairs, its padding included, over ours: the prompt once, no padding."""
    lengths = [[len(row[key].split()) for key in ("prompt", "chosen", "rejected")] for row in rows]
    theirs = ours = 0
    for at in range(0, len(lengths), BATCH):
        batch = lengths[at : at + BATCH]
        longest = max(prompt + max(chosen, rejected) + 1 for prompt, chosen, rejected in batch)
        theirs += 2 * len(batch) * longest
        ours += sum(prompt + chosen + rejected + 2 for prompt, chosen, rejected in batch)
    return theirs / ours
