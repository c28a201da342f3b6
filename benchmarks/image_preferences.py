"""What comparisons of pictures teach: methods on given pictures, on the demo's image model.

The demo's base draws two pictures for each of 300 prompts; a simulated person with the demo's hidden utility
chooses (Bradley-Terry). Each method learns from these pairs; the control from pairs whose winner is a coin's.
Measured on held-out prompts: how often a tuned picture is worth more than the base's at independent seeds (a
tie is half a win), with the 95 % interval over matches, and how far apart two pictures of a prompt are,
against the base's.

    python -m benchmarks.image_preferences [--quick] [--only NAME …] [--write benchmarks/results/FILE.md]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from training.tuning.images.data import open_image, to_pixels
from training.tuning.images.online import diversity
from training.tuning.metrics import wilson
from webapp.demo import image_world
from webapp.demo.settings_image import TUNING
from webapp.demo.text_world import choose
from webapp.demo.worlds import IMAGE

GOAL, DIVERSITY, CHANCE = 0.72, 0.8, (0.45, 0.55)
RELIABILITY = 1.5  # of the simulated person; the demo's are between 0 and 2
SHARED = {"lora": TUNING["lora"], "batch_size": 32, "epochs": 12, "log_every": 20, "samples": 0}
DIRECT = SHARED | {"learning_rate": 1e-3, "timestep_low": TUNING["timestep_low"]}
# Of nine settings tried with other pairs, seeds and prompts this keeps most diversity for its wins (0.812 at
# 0.89): beta 10 had 0.905 at 0.67, or after ten epochs 0.865 at 0.81, beta 50 0.618 at 1.04.
DPO = DIRECT | {"beta": 20.0, "draws": 4}


@dataclass(frozen=True)
class Trial:
    """One tuned model. ``shuffled``: its winners are a coin's."""

    name: str
    method: str
    config: dict[str, Any]
    shuffled: bool = False


TRIALS = [
    Trial("Diffusion-DPO", "diffusion_dpo", DPO),
    Trial("Diffusion-DPO, shuffled", "diffusion_dpo", DPO, shuffled=True),
    Trial("Diffusion-KTO", "diffusion_kto", DIRECT | {"beta": 10.0}),
    Trial("SePPO", "seppo", DIRECT | {"beta": 10.0, "epochs": 6}),
    Trial("Supervised on the chosen", "image_sft", DIRECT),
    Trial("D3PO", "d3po", SHARED | {"learning_rate": 1e-3, "beta": 5.0, "epochs": 6}),
]


@dataclass(frozen=True)
class Found:
    """What a tuned model does against the base."""

    trial: Trial
    wins: float
    low: float
    high: float
    diversity: float


def main() -> int:
    """Measure all; exit code 1 if neither Diffusion-DPO nor D3PO reaches the goals, or the control moves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few prompts")
    parser.add_argument("--only", nargs="*", help="names of trials")
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    options = parser.parse_args()
    pairs, held_out = (60, 60) if options.quick else (300, 400)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), pairs, held_out, options.only)
    text = report(found, pairs, held_out)
    print(text)
    if options.write:
        options.write.write_text(text)
    by_name = {one.trial.name: one for one in found}
    tried = [by_name[name] for name in ("Diffusion-DPO", "D3PO") if name in by_name]
    reached = not tried or any(one.wins >= GOAL and one.diversity >= DIVERSITY for one in tried)
    control = by_name.get("Diffusion-DPO, shuffled")
    calm = control is None or CHANCE[0] <= control.wins <= CHANCE[1]
    return int(not options.quick and not (reached and calm))


def measure(folder: Path, pairs: int, held_out: int, only: list[str] | None) -> list[Found]:
    """Draw, judge, tune and compare."""
    drawn = draw(folder / "drawn", image_world.prompts("train", pairs, 1), seed=1, eta=1.0)
    asked = image_world.prompts("held_out", held_out, 2)
    base = draw(folder / "base", asked, seed=2)
    utilities, apart = values(base), spread(base)
    found = []
    for trial in TRIALS:
        if only and trial.name not in only:
            continue
        tuned = tune(folder / trial.name, trial, drawn)
        ours = draw(folder / f"{trial.name}-drawn", asked, seed=3, base=tuned)
        matches = list(zip(values(ours), utilities, strict=True))
        wins = sum((our > their) + 0.5 * (our == their) for our, their in matches)
        low, high = wilson(wins, len(matches))
        found.append(Found(trial, wins / len(matches), low, high, spread(ours) / apart))
        print(f"{trial.name}: {found[-1].wins:.3f}", file=sys.stderr)
    return found


def draw(
    folder: Path, prompts: list[str], *, seed: int, base: Path | None = None, eta: float | None = None
) -> Path:
    """Two pictures of each prompt; the result's folder."""
    config = {"samples_per_prompt": 2, "batch_size": 64, "eta": eta}
    return train(folder, "image_generate", config, [{"prompt": one} for one in prompts], seed=seed, base=base)


def tune(folder: Path, trial: Trial, drawn: Path) -> Path:
    """A trial's result, from what the simulated person says about the drawn pictures."""
    rng, rows = random.Random(7), []
    for row in rows_of(drawn / "generations.jsonl"):
        pictures = [open_image(drawn / "media" / one["image"]) for one in row["candidates"]]
        left, right = (image_world.utility(row["prompt"], one) for one in pictures)
        choice = choose(left, right, rng, RELIABILITY, 0.0)
        chosen = rng.randrange(2) if trial.shuffled else choice
        rows.append({**row, "judgements": [{"choice": chosen}]})
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "media").symlink_to(drawn / "media")
    return train(folder, trial.method, trial.config, rows, seed=5)


def train(
    folder: Path,
    method: str,
    config: dict[str, Any],
    rows: list[dict[str, Any]],
    *,
    seed: int,
    base: Path | None = None,
) -> Path:
    """The result of a run in a process of its own."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    spec = {"method": method, "config": config, "base": str(base or IMAGE.folder), "seed": seed}
    (folder / "run.json").write_text(json.dumps(spec))
    (folder / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    subprocess.run(
        [sys.executable, "-m", "training.tuning", str(folder)],
        env=os.environ | {"TIEBREAK_DEVICE": "cpu"},
        capture_output=True,
        check=True,
    )
    return folder / "result"


def pictures(drawn: Path) -> list[tuple[str, list[Image.Image]]]:
    """(prompt, its pictures) of a drawing."""
    return [
        (row["prompt"], [open_image(drawn / "media" / one["image"]) for one in row["candidates"]])
        for row in rows_of(drawn / "generations.jsonl")
    ]


def values(drawn: Path) -> list[float]:
    """The hidden utility of every picture, prompt by prompt."""
    return [image_world.utility(prompt, one) for prompt, own in pictures(drawn) for one in own]


def spread(drawn: Path) -> float:
    """The mean distance of the two pictures of a prompt."""
    return diversity(
        torch.stack([torch.stack([to_pixels(one) for one in own]) for _, own in pictures(drawn)])
    )


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def report(found: list[Found], pairs: int, held_out: int) -> str:
    """The result as Markdown."""
    lines = [
        "# Pictures people prefer",
        "",
        f"`python -m benchmarks.image_preferences`: the demo's image model, {pairs} judged pairs, {held_out} "
        "held-out prompts with two pictures each, against the base at independent seeds. Targets: "
        f"{GOAL:.0%} won at a diversity of {DIVERSITY}; with shuffled winners {CHANCE[0]:.0%} to "
        f"{CHANCE[1]:.0%}.",
        "",
        "| method | wins | 95 % interval | diversity, of the base's |",
        "| --- | --- | --- | --- |",
        *(
            f"| {one.trial.name} | {one.wins:.3f} | {one.low:.3f} to {one.high:.3f} | {one.diversity:.2f} |"
            for one in found
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
