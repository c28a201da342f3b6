"""GRPO updates per second and peak memory against TRL's GRPOTrainer: the same answers, rewards and loss.

The answers are given and not generated, eight to a prompt, so that only the update is timed: reference
log-probabilities, the loss and its gradients, and the optimizer's step. See ``steps`` for how time and
memory are taken.

    python -m benchmarks.grpo_vs_trl [--rounds 3] [--write FILE]
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import steps
from benchmarks.steps import ANSWER, BATCH, PROMPT, Clock

PROMPTS, ANSWERS, BETA = 24, 8, 0.04
VARIANTS = ["trl", "tiebreak"]
TARGETS = {"speed": 2.5, "memory": 0.45}


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
        steps.save_llama(Path(name) / "model")
        write_answers(Path(name) / "answers.jsonl")
        best = steps.measure("grpo_vs_trl", VARIANTS, Path(name), rounds=options.rounds)
    ours, theirs = best["tiebreak"], best["trl"]
    ratios = {
        "speed": ours["pairs_per_second"] / theirs["pairs_per_second"],
        "memory": ours["peak_mib"] / theirs["peak_mib"],
        # Losses start at zero by construction; the gradients tell whether both train the same thing.
        "gradient_difference": max(
            abs(one / other - 1) for one, other in zip(ours["logged"], theirs["logged"], strict=True)
        ),
    }
    report = describe(best, ratios, rounds=options.rounds)
    print(report)
    if options.write:
        options.write.write_text(report + "\n", encoding="utf-8")
    print(json.dumps({name: round(value, 5) for name, value in ratios.items()}))
    fast = ratios["speed"] >= TARGETS["speed"] and ratios["memory"] <= TARGETS["memory"]
    return 0 if fast and ratios["gradient_difference"] < 1e-3 else 1


def write_answers(path: Path) -> None:
    """Prompts with eight answers each, as words that are one token each."""
    rng = random.Random(0)
    rows = [
        {
            "prompt": steps.words(rng, PROMPT) + " ",
            "answers": [steps.words(rng, ANSWER, less=1) for _ in range(ANSWERS)],
        }
        for _ in range(PROMPTS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_answers(folder: Path) -> dict[str, list[str]]:
    """Answers by prompt."""
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    return {row["prompt"]: row["answers"] for row in rows}


def describe(best: dict[str, dict[str, Any]], ratios: dict[str, float], *, rounds: int) -> str:
    """The result as Markdown."""
    import trl

    return "\n".join(
        [
            "# GRPO update against TRL",
            "",
            f"`python -m benchmarks.grpo_vs_trl --rounds {rounds}`: Llama of 10.6 M parameters, all "
            f"trained, float32, trl {trl.__version__}; prompts of {PROMPT[0]} to {PROMPT[1]} tokens, "
            f"{ANSWERS} answers of {ANSWER[0]} to {ANSWER[1]} each, {BATCH} prompts per update, "
            f"beta {BETA}; generation left out. The fastest of {rounds} rounds, CPU seconds on one "
            "thread; peak memory of the whole process.",
            "",
            "| variant | prompts per CPU second | peak MiB |",
            "| --- | --- | --- |",
            *(
                f"| {name} | {best[variant]['pairs_per_second']:.2f} | {best[variant]['peak_mib']:.0f} |"
                for variant, name in (("trl", "TRL GRPOTrainer"), ("tiebreak", "Tiebreak"))
            ),
            "",
            f"- × TRL's speed: **{ratios['speed']:.2f}** (target {TARGETS['speed']})",
            f"- × TRL's peak memory: **{ratios['memory']:.2f}** (target {TARGETS['memory']})",
            f"- largest difference of a step's gradient norm: {ratios['gradient_difference']:.1e} of it",
        ]
    )


def train_tiebreak(folder: Path) -> dict[str, Any]:
    """Ours, through the command line's entry point."""
    from training.tuning.methods import grpo
    from training.tuning.text.generation import Answer
    from training.tuning.text.rollouts import make_rollout

    known = read_answers(folder)

    def given(policy: Any, prompts: Any, config: Any, **options: Any) -> Any:
        rollouts = []
        for prompt in prompts:
            encoded = policy.tokenizer(known[prompt.text], add_special_tokens=False)["input_ids"]
            answers = [[*ids, policy.tokenizer.eos_token_id] for ids in encoded]
            rollouts.append(
                make_rollout(policy, prompt, [Answer(ids, [0.0] * len(ids), ended=True) for ids in answers])
            )
        return rollouts

    grpo.roll_out = given
    config = {"beta": BETA, "num_generations": ANSWERS, "samples": 0, "max_length": None}
    rows = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in known)
    reward = [{"rule": "words"}]
    return steps.train_tiebreak(folder, "grpo", config, rows=rows, column="grad_norm", reward=reward)


def train_trl(folder: Path) -> dict[str, Any]:
    """TRL's, on the batches of our plan in our order."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from training.tuning.config import GRPOConfig as Ours

    known = read_answers(folder)
    prompts = list(known)
    order = steps.order_of(Ours(batch_size=BATCH), PROMPTS)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    clock, norms = Clock(), list[float]()

    def given(asked: list[str], trainer: Any) -> dict[str, Any]:
        """``asked`` holds each prompt once for each of its answers."""
        texts = [known[prompt][number % ANSWERS] for number, prompt in enumerate(asked)]
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
        answers = [[*ids, tokenizer.eos_token_id] for ids in encoded]
        return {
            "prompt_ids": tokenizer(asked, add_special_tokens=False)["input_ids"],
            "completion_ids": answers,
            "logprobs": [[0.0] * len(ids) for ids in answers],
        }

    def words(completions: list[str], **options: Any) -> list[float]:
        return [float(len(text.split())) for text in completions]

    trainer = GRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=words,
        rollout_func=given,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": prompts[index]} for index in order]),
        args=GRPOConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=BATCH * ANSWERS,
            num_generations=ANSWERS,
            max_completion_length=ANSWER[1] + 1,
            steps_per_generation=1,
            shuffle_dataset=False,
            beta=BETA,
            loss_type="grpo",
            **steps.THEIRS,
        ),
        callbacks=[steps.watcher(clock, norms, column="grad_norm")],
    )
    trainer.train()
    return clock.result(norms)


CHILDREN = {"trl": train_trl, "tiebreak": train_tiebreak}

if __name__ == "__main__":
    sys.exit(main())
