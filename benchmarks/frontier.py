"""Reward against KL: what each method buys for how far it moves, on the demo's text model.

The demo's base writes two answers to each of a few hundred prompts; a simulated person with the demo's hidden
utility chooses (Bradley-Terry). DPO, IPO, KTO and SimPO learn from these pairs, GRPO and PPO from a reward
model that was trained on them, TRL's DPO from the same rows; each at several strengths, with the same
adapter. Measured on held-out prompts with fresh samples: the mean utility, and the KL divergence from the
base in nats per answer (the mean log-ratio of the policy's own answers). A method that lies higher at equal
KL gets more for the same departure.

    python -m benchmarks.frontier [--quick] [--write benchmarks/results/frontier.md] [--plot FILE.svg]
"""

import argparse
import itertools
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from webapp.demo import text_world
from webapp.demo.worlds import TEXT

LORA = {"r": 8, "alpha": 16, "target_modules": "all-linear"}
TUNING = {"epochs": 1, "scheduler": "cosine", "lora": LORA, "log_every": 5, "samples": 0}
DIRECT = TUNING | {"learning_rate": 3e-3, "batch_size": 16, "epochs": 4}
ONLINE = TUNING | {"learning_rate": 3e-3, "batch_size": 32, "max_new_tokens": 120, "epochs": 2}
SAMPLING = {"temperature": 1.0, "max_new_tokens": 120, "batch_size": 128}


@dataclass(frozen=True)
class Curve:
    """A method at several strengths, the gentlest first. ``trained_by`` is ``tiebreak`` or ``trl``."""

    name: str
    method: str
    settings: list[dict[str, Any]]
    trained_by: str = "tiebreak"
    needs_reward: bool = False


def each(base: dict[str, Any], **values: list[Any]) -> list[dict[str, Any]]:
    """``base`` with the first of all values, with the second, …"""
    return [base | dict(zip(values, chosen, strict=True)) for chosen in zip(*values.values(), strict=True)]


CURVES = [
    Curve("DPO", "dpo", each(DIRECT, beta=[2.0, 0.5, 0.1])),
    Curve("IPO", "dpo", each(DIRECT | {"loss": "ipo"}, beta=[1.0, 0.3, 0.1])),
    Curve("KTO", "kto", each(DIRECT, beta=[2.0, 0.5, 0.1])),
    Curve("SimPO", "simpo", each(DIRECT | {"gamma": 0.5}, learning_rate=[3e-4, 1e-3, 3e-3])),
    Curve("GRPO", "grpo", each(ONLINE | {"kl": "k2"}, beta=[1.0, 0.2, 0.05]), needs_reward=True),
    Curve("PPO", "ppo", each(ONLINE, beta=[0.5, 0.1, 0.02]), needs_reward=True),
    Curve("DPO of TRL", "dpo", each(DIRECT, beta=[1.0, 0.3, 0.15]), trained_by="trl"),
]


@dataclass(frozen=True)
class Point:
    """One tuned policy on the held-out prompts: means over prompts, and standard errors of the means."""

    strength: str
    kl: float
    kl_error: float
    utility: float
    utility_error: float


def main() -> int:
    """Measure all curves; exit code 1 if our DPO is worse than TRL's at equal KL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few prompts, one strength of each method")
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    parser.add_argument("--plot", type=Path, help="draw the result")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "CONFIG"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        train_trl(Path(options.child[0]), json.loads(options.child[1]))
        return 0
    prompts, held_out = (64, 32) if options.quick else (300, 200)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, prompts)
        asked = text_world.prompts("held_out", held_out, 11)
        base = measure(folder, "base", str(TEXT.folder), asked, strength="", moved=False)
        found: dict[str, list[Point]] = {}
        for curve in CURVES:
            settings = curve.settings[1:2] if options.quick else curve.settings
            found[curve.name] = [
                point_of(folder, curve, number, setting, asked) for number, setting in enumerate(settings)
            ]
    gaps = gaps_at_equal_kl(base, found["DPO"], found["DPO of TRL"])
    report = describe(base, found, gaps, prompts=prompts, held_out=held_out, quick=options.quick)
    print(report)
    if options.write:
        options.write.write_text(report + "\n", encoding="utf-8")
    if options.plot:
        draw(options.plot, base, found)
    return 0 if all(gap + 2 * error >= 0 for _, gap, error in gaps) else 1


def prepare(folder: Path, count: int) -> None:
    """``pairs.jsonl`` with the person's choices, ``prompts.jsonl``, and a reward model in ``reward``."""
    asked = text_world.prompts("train", count, 7)
    rows = answers(folder / "pairs", str(TEXT.folder), asked, each_prompt=2)
    rng = random.Random("frontier")
    groups = []
    for prompt, texts in rows:
        one, other = (text_world.utility(prompt, text) for text in texts)
        choice = text_world.choose(one, other, rng, reliability=1.0, tie_width=0.0)
        group = {"prompt": prompt, "candidates": [{"text": text} for text in texts]}
        groups.append(group | {"judgements": [{"choice": choice}]})
    write_rows(folder / "pairs.jsonl", groups)
    write_rows(folder / "prompts.jsonl", [{"prompt": prompt} for prompt, _ in rows])
    run(folder / "reward", "reward_model", TEXT.reward_folder, TEXT.reward, folder / "pairs.jsonl")


def answers(path: Path, model: str, prompts: list[str], *, each_prompt: int) -> list[tuple[str, list[str]]]:
    """Sampled answers by prompt, in the prompts' order."""
    config = SAMPLING | {"samples_per_prompt": each_prompt}
    source = path.with_suffix(".prompts.jsonl")
    write_rows(source, [{"prompt": prompt} for prompt in prompts])
    result = run(path, "generate", model, config, source)
    rows = [json.loads(line) for line in (result / "generations.jsonl").read_text().splitlines()]
    return [(row["prompt"], [candidate["text"] for candidate in row["candidates"]]) for row in rows]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def run(
    path: Path,
    method: str,
    base: str | None,
    config: dict[str, Any],
    rows: Path,
    reward: list[dict[str, Any]] | None = None,
) -> Path:
    """A run by the trainer's command line; returns its result."""
    (path / "data").mkdir(parents=True)
    spec = {"method": method, "config": config, "base": base, "seed": 0}
    (path / "run.json").write_text(json.dumps(spec | ({"reward": reward} if reward else {})))
    (path / "data" / "train.jsonl").write_bytes(rows.read_bytes())
    command(["-m", "training.tuning", str(path)])
    return path / "result"


def command(arguments: list[str]) -> None:
    """Python in a process of its own, one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")


def point_of(folder: Path, curve: Curve, number: int, setting: dict[str, Any], asked: list[str]) -> Point:
    """Train one policy and measure it."""
    name = f"{curve.name}-{number}".replace(" ", "-")
    changed = [key for key in setting if setting[key] != curve.settings[number - 1][key]] or ["beta"]
    strength = ", ".join(f"{key} {setting[key]:g}" for key in changed)
    if curve.trained_by == "trl":
        target = folder / name / "result"
        target.mkdir(parents=True)
        command(
            ["-m", "benchmarks.frontier", "--child", str(folder), json.dumps({**setting, "out": str(target)})]
        )
    else:
        rows = folder / ("prompts.jsonl" if curve.needs_reward else "pairs.jsonl")
        reward = [{"model": str(folder / "reward" / "result")}] if curve.needs_reward else None
        target = run(folder / name, curve.method, str(TEXT.folder), setting, rows, reward)
    point = measure(folder, name, str(target), asked, strength=strength)
    print(curve.name, point, file=sys.stderr, flush=True)
    return point


def measure(
    folder: Path, name: str, model: str, asked: list[str], *, strength: str, moved: bool = True
) -> Point:
    """Utility and KL of fresh answers, two to each held-out prompt."""
    rows = answers(folder / f"{name}-answers", model, asked, each_prompt=2)
    utilities = [fmean(text_world.utility(prompt, text) for text in texts) for prompt, texts in rows]
    ratios = [0.0] * len(rows)
    if moved:
        source = folder / f"{name}-answers" / "result" / "generations.jsonl"
        scored = run(folder / f"{name}-kl", "score", None, {}, source, [{"model": model}])
        lines = (scored / "scores.jsonl").read_text().splitlines()
        ratios = [fmean(json.loads(line)["scores"]) for line in lines]
    return Point(strength, fmean(ratios), error_of(ratios), fmean(utilities), error_of(utilities))


def error_of(values: list[float]) -> float:
    """The standard error of the mean."""
    return stdev(values) / math.sqrt(len(values))


def train_trl(folder: Path, setting: dict[str, Any]) -> None:
    """TRL's DPO on the same pairs with the same adapter, batch, rate and schedule."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    rows = []
    for line in (folder / "pairs.jsonl").read_text().splitlines():
        group = json.loads(line)
        (judgement,), texts = group["judgements"], [one["text"] for one in group["candidates"]]
        chosen, rejected = texts[judgement["choice"]], texts[1 - judgement["choice"]]
        messages = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        contents = {"prompt": group["prompt"], "chosen": chosen, "rejected": rejected}
        rows.append({key: [{"role": role, "content": contents[key]}] for key, role in messages.items()})
    trainer = DPOTrainer(
        model=str(TEXT.folder),
        args=DPOConfig(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=setting["batch_size"],
            learning_rate=setting["learning_rate"],
            lr_scheduler_type="cosine",
            warmup_steps=0,
            num_train_epochs=setting["epochs"],
            beta=setting["beta"],
            max_length=None,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(TEXT.folder),
        peft_config=LoraConfig(
            r=LORA["r"],
            lora_alpha=LORA["alpha"],
            target_modules=LORA["target_modules"],
            task_type="CAUSAL_LM",
        ),
    )
    trainer.train()
    trainer.save_model(setting["out"])


def gaps_at_equal_kl(base: Point, ours: list[Point], theirs: list[Point]) -> list[tuple[float, float, float]]:
    """(KL, our utility less TRL's, its standard error) at each KL of TRL's that our curve spans.

    Ours is read off between its points, linearly in the root of KL, in which over-optimisation curves are
    smooth (Gao et al., arXiv:2210.10760); the base is the point at 0.
    """
    curve = sorted([base, *ours], key=lambda point: point.kl)
    gaps = []
    for point in theirs:
        for left, right in itertools.pairwise(curve):
            if left.kl <= point.kl <= right.kl:
                near, far, here = (math.sqrt(max(0.0, one.kl)) for one in (left, right, point))
                share = (here - near) / (far - near)
                utility = left.utility + share * (right.utility - left.utility)
                error = math.hypot(
                    (1 - share) * left.utility_error, share * right.utility_error, point.utility_error
                )
                gaps.append((point.kl, utility - point.utility, error))
    return gaps


def describe(
    base: Point,
    found: dict[str, list[Point]],
    gaps: list[tuple[float, float, float]],
    *,
    prompts: int,
    held_out: int,
    quick: bool,
) -> str:
    """The result as Markdown."""
    from importlib.metadata import version

    lines = [
        "# Reward against KL",
        "",
        f"`python -m benchmarks.frontier{' --quick' if quick else ''}`: the demo's text model, {prompts} "
        f"judged pairs, {held_out} held-out prompts with two answers each; trl {version('trl')}. ± is a "
        "standard error.",
        "",
        f"The base: utility {base.utility:.2f} ± {base.utility_error:.2f}; the best answer scores 4.8.",
        "",
        "| method | strength | KL, nats per answer | hidden utility |",
        "| --- | --- | --- | --- |",
    ]
    for name, points in found.items():
        lines += [
            f"| {name} | {one.strength} | {one.kl:.2f} ± {one.kl_error:.2f} | "
            f"{one.utility:.2f} ± {one.utility_error:.2f} |"
            for one in points
        ]
    lines += ["", "Our DPO less TRL's at TRL's KL, read off between our points:", ""]
    lines += [f"- at {kl:.2f} nats: {gap:+.2f} ± {error:.2f}" for kl, gap, error in gaps]
    return "\n".join(lines)


def draw(path: Path, base: Point, found: dict[str, list[Point]]) -> None:
    """The curves over KL, which spans four orders of magnitude, above the line of the base."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "frontier"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained", facecolor="white")
    axes.axhline(base.utility, color="0.7", linewidth=1)
    axes.annotate("base", (0, base.utility), xycoords=("axes fraction", "data"), va="bottom", color="0.4")
    for name, points in found.items():
        curve = sorted(points, key=lambda point: point.kl)
        style = {"linestyle": "--", "color": "0.3"} if "TRL" in name else {}
        axes.errorbar(
            [one.kl for one in curve],
            [one.utility for one in curve],
            yerr=[2 * one.utility_error for one in curve],
            marker="o",
            markersize=4,
            capsize=2,
            label=name,
            **style,
        )
    axes.set_xscale("log")
    axes.set_xlabel("KL divergence from the base, nats per answer")
    axes.set_ylabel("hidden utility of held-out answers, ± 2 standard errors")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
