"""Rewards for people who differ, after eight answers of somebody new, against one reward for all.

The demo's base writes two answers to each of some 1,200 prompts. Half of the simulated annotators like the
hidden utility's careful answers at length, half the opposite: each chooses by Bradley-Terry on plus or minus
the same taste. Three reward models learn from a dozen people: one for all, ideal points (PAL) and latents
(VPL). Four new people then give eight answers each. The one for all learns from those too; the others only
fit who these people are. Measured on held-out prompts: how often the reward has the side that the new person
likes more. Intervals are 95 % over seeds, which draw people's answers and start the training.

    python -m benchmarks.personal_rewards [--quick] [--seeds 5] [--write FILE] [--plot FILE]
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from scipy.special import expit
from scipy.stats import t as student

from benchmarks.frontier import LORA, answers, command, error_of, write_rows
from webapp.demo import text_world
from webapp.demo.worlds import TEXT

TARGET: Final = 0.10
PEOPLE, NEW, PAIRS, FEW, ASKED = 12, 4, 96, 8, 40
SHARED: Final = {**TEXT.reward, "eval_every": None, "epochs": 4, "lora": LORA}
ARMS: Final[dict[str, dict[str, Any]]] = {
    "one for all": {},
    "ideal points": {"loss": "ideal_point", "dimensions": 8, "people_learning_rate": 0.05},
    "latents": {
        "loss": "variational",
        "dimensions": 8,
        "latent": 4,
        "context_pairs": 32,
        "people_learning_rate": 1e-2,
    },
}
FIT: Final[dict[str, dict[str, Any]]] = {
    "ideal points": {"people_learning_rate": 0.1, "epochs": 10},
    "latents": {"people_learning_rate": 1e-2, "epochs": 2},
}


def main() -> int:
    """Measure, print, and say by the exit code whether both gain what they should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds, fewer pairs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    parser.add_argument("--plot", type=Path, help="draw the result")
    options = parser.parse_args()
    seeds, pairs = (2, 24) if options.quick else (options.seeds, PAIRS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seen = tasted(folder / "train", text_world.prompts("train", PEOPLE * pairs + 2 * NEW * FEW, 5))
        asked = tasted(folder / "asked", text_world.prompts("held_out", NEW * ASKED, 6))
        found = [measure(folder / str(seed), seen, asked, seed, pairs=pairs) for seed in range(seeds)]
    report = describe(found, pairs=pairs)
    print(report)
    if options.write:
        options.write.write_text(report + "\n", encoding="utf-8")
    if options.plot:
        draw(options.plot, found)
    return 0 if min(fmean(gains(found, arm)) for arm in FIT) >= TARGET else 1


def tasted(path: Path, prompts: list[str]) -> list[dict[str, Any]]:
    """Two answers to each prompt, and by how much the first is more to the first taste."""
    rows = []
    for prompt, texts in answers(path, str(TEXT.folder), prompts, each_prompt=2):
        one, other = (text_world.utility(prompt, text) + len(text.split()) / 10 for text in texts)
        if one != other:
            rows.append({"prompt": prompt, "texts": texts, "gap": one - other})
    return rows


def group_of(row: dict[str, Any], person: int, rng: random.Random | None) -> dict[str, Any]:
    """What a person says; without noise if there is no ``rng``. Odd ones have the opposite taste."""
    gap = row["gap"] if person % 2 == 0 else -row["gap"]
    chance = float(gap > 0) if rng is None else float(expit(gap))
    choice = 0 if (rng.random() if rng else 0.5) < chance else 1
    return {
        "prompt": row["prompt"],
        "candidates": [{"text": text} for text in row["texts"]],
        "judgements": [{"annotator": f"person {person}", "choice": choice}],
    }


def measure(
    folder: Path, seen: list[dict[str, Any]], asked: list[dict[str, Any]], seed: int, *, pairs: int
) -> dict[str, float]:
    """Held-out agreement with new people, by arm."""
    rng = random.Random(f"people {seed}")
    rows = rng.sample(seen, len(seen))
    known = [group_of(row, at % PEOPLE, rng) for at, row in enumerate(rows[: PEOPLE * pairs])]
    new = [group_of(row, PEOPLE + at % NEW, rng) for at, row in enumerate(rows[-NEW * FEW :])]
    held_out = [group_of(row, PEOPLE + at % NEW, None) for at, row in enumerate(asked)]
    found = {}
    for arm, extra in ARMS.items():
        fits, name = arm in FIT, arm.replace(" ", "-")
        config = SHARED | extra
        model = train(
            folder / name, TEXT.reward_folder, config, known if fits else known + new, held_out, seed
        )
        if fits:
            fit = {key: config[key] for key in (*extra, "batch_size") if key != "context_pairs"}
            fit |= {"fit": "people", "keep_best": False} | FIT[arm]
            model = train(folder / f"{name}-fit", str(model), fit, new, held_out, seed)
        found[arm] = accuracy(model.parent)
    return found


def train(
    path: Path,
    base: str,
    config: dict[str, Any],
    rows: list[dict[str, Any]],
    held_out: list[dict[str, Any]],
    seed: int,
) -> Path:
    """A reward model by the trainer's command line; its result."""
    (path / "data").mkdir(parents=True)
    spec = {"method": "reward_model", "config": config, "base": base, "seed": seed}
    (path / "run.json").write_text(json.dumps(spec))
    write_rows(path / "data" / "train.jsonl", rows)
    write_rows(path / "data" / "eval.jsonl", held_out)
    command(["-m", "training.tuning", str(path)])
    return path / "result"


def accuracy(path: Path) -> float:
    """Of the last evaluation."""
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return float([row["eval/accuracy"] for row in map(json.loads, lines) if "eval/accuracy" in row][-1])


def gains(found: list[dict[str, float]], arm: str) -> list[float]:
    return [one[arm] - one["one for all"] for one in found]


def interval(values: list[float]) -> tuple[float, float]:
    """95 % for the mean, by Student's t."""
    half = student.ppf(0.975, len(values) - 1) * error_of(values)
    return fmean(values) - half, fmean(values) + half


def describe(found: list[dict[str, float]], *, pairs: int) -> str:
    lines = [
        "# Rewards for people who differ",
        "",
        f"`python -m benchmarks.personal_rewards --seeds {len(found)}`: two opposite tastes, {PEOPLE} people "
        f"with {pairs} noisy answers each, {NEW} new ones with {FEW} answers each, at most {NEW * ASKED} "
        "held-out prompts. Agreement with what the new people like; intervals are 95 % over seeds.",
        "",
        "| reward | agreement | 95 % | over one for all | 95 % | target |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for arm in ARMS:
        values = [one[arm] for one in found]
        low, high = interval(values)
        line = f"| {arm} | {fmean(values):.3f} | {low:.3f} to {high:.3f} |"
        if arm in FIT:
            gained = gains(found, arm)
            low, high = interval(gained)
            line += f" {fmean(gained):+.3f} | {low:+.3f} to {high:+.3f} | {TARGET:+.2f} |"
        else:
            line += " | | |"
        lines.append(line)
    return "\n".join(lines)


def draw(path: Path, found: list[dict[str, float]]) -> None:
    """A bar for each reward, with a dot for each seed."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "personal"
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3.2))
    for at, arm in enumerate(ARMS):
        values = [one[arm] for one in found]
        axis.bar(at, fmean(values), color="C0" if arm in FIT else "0.7", width=0.6)
        axis.plot([at] * len(values), values, "k.", markersize=4)
    axis.axhline(0.5, color="0.4", linewidth=0.8, linestyle=":")
    axis.set(
        xticks=range(len(ARMS)), xticklabels=list(ARMS), ylim=(0.4, 1), ylabel="agreement with new people"
    )
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    raise SystemExit(main())
