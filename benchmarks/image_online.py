"""Image models tuned on rewards of the pictures that they draw: what it costs, and what it brings.

On the demo's image model:

- **speed**: pictures per second of recorded chains (latents, noise, log-probabilities) against the
  pipeline's own call with the same sampler and steps. Target: 0.95 at least.
- **taste**: `flow_grpo` with a KL divergence learns the demo's hidden utility, with three seeds; its pictures
  of prompts that were neither trained on nor looked at when its settings were chosen are compared blind with
  the base's, at seeds of their own. Targets: 80 % won, and a diversity (mean distance between pictures of one
  prompt) of 0.8 of the base's at least, both as means over the seeds.
- **curves**: DDPO on the size as JPEG, up and down, as in its paper (arXiv:2305.13301, Fig. 4).

Trainings stand beside one another, each in a process of its own with one thread.

    python -m benchmarks.image_online [--quick] [--only speed|taste|curves] [--write FILE] [--plot FILE.svg]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

from webapp.demo import image_world
from webapp.demo.worlds import IMAGE

LORA = {"r": 8, "alpha": 8, "target_modules": "all-linear"}
SHARED: dict[str, Any] = {
    "lora": LORA,
    "samples": 0,
    "batch_size": 16,
    "num_generations": 4,
    "micro_batch_size": 64,
    "save_every": 10_000,
}
# Size and place are decided in the first steps. Without a scale of advantages, beta is the temperature of
# the tilted distribution p exp(r / beta) that the method has as its optimum.
TASTE = SHARED | {
    "learning_rate": 3e-3,
    "window": 5,
    "window_every": 10_000,
    "scale": "none",
    "beta": 0.3,
}
# Prompts differ more in size than the pictures of one do: a picture is compared with those of its prompt. As
# in the paper's code, the pictures of a step make four updates.
CURVE = SHARED | {
    "learning_rate": 3e-3,
    "batch_size": 8,
    "num_generations": 8,
    "history": 8,
    "advantage_clip": 5.0,
    "micro_batch_size": 16,
    "minibatches": 4,
    "clip": 1e-3,
    "step_share": 0.5,
}
CHOSEN_ON = 30  # of the held-out prompts: the settings above were chosen on them, so that they do not count
PROMPTS, DRAWN, SEEDS = 8, 16, (2, 3, 4)  # those left, pictures of each; of training


def utility(prompts: list[str], pictures: list[Any]) -> list[float]:
    """The reward of `taste`: the simulated people's utility, as it stands in a run's reward list."""
    return [image_world.utility(prompt, one) for prompt, one in zip(prompts, pictures, strict=True)]


def tune(
    folder: Path, method: str, config: dict[str, Any], *, reward: list[dict[str, Any]], seed: int
) -> float:
    """Train the demo's base; returns the seconds."""
    from training.tuning.__main__ import main

    (folder / "data").mkdir(parents=True)
    rows = [{"prompt": prompt} for prompt in image_world.prompts("train", 200, 0)]
    (folder / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = {"method": method, "config": config, "base": str(IMAGE.folder), "seed": seed, "reward": reward}
    (folder / "run.json").write_text(json.dumps(spec))
    started = time.perf_counter()
    if code := main([str(folder)]):
        raise SystemExit(f"{method} ended with {code}")
    return time.perf_counter() - started


def tune_together(folders: Sequence[Path], *given: Any, **each: Sequence[Any]) -> list[float]:
    """``tune`` in as many processes as there are cores. ``each``: what differs between the folders."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        waiting = [
            pool.submit(tune, folder, *given, **{name: values[at] for name, values in each.items()})
            for at, folder in enumerate(folders)
        ]
        return [one.result() for one in waiting]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def draw(base: str, seed: int) -> tuple[list[list[float]], Any]:
    """Utilities, prompts by pictures, and the pictures' pixels (G, k, 3, H, W)."""
    import torch

    from training.tuning.config import ImageGenerateConfig
    from training.tuning.images.data import to_pixels
    from training.tuning.images.generation import generate_images, plan_requests
    from training.tuning.images.loading import load_for_sampling
    from training.tuning.images.samples import sampling_for

    family = load_for_sampling(base, device=torch.device("cpu"))
    sampling = sampling_for(ImageGenerateConfig(), family)
    utilities, pixels = [], []
    prompts = image_world.prompts("held_out", CHOSEN_ON + PROMPTS, 1)[CHOSEN_ON:]
    for requests in plan_requests(prompts, samples_per_prompt=DRAWN, seed=seed):
        pictures = generate_images(family, requests, sampling)
        utilities.append(utility([one.prompt for one in requests], pictures))
        pixels.append(torch.stack([to_pixels(one) for one in pictures]))
    return utilities, torch.stack(pixels)


def measure_taste(work: Path, *, quick: bool) -> list[dict[str, float]]:
    """For each seed the share of pairs won against the base, and diversity over that of the base."""
    from training.tuning.images.online import diversity

    config = TASTE | {"max_steps": 3 if quick else 75}
    reward = [{"python": "benchmarks.image_online:utility"}]
    before, base_pixels = draw(str(IMAGE.folder), seed=11)
    found = []
    seeds = SEEDS[: 1 if quick else None]
    folders = [work / f"taste-{seed}" for seed in seeds]
    spent = tune_together(folders, "flow_grpo", config, reward=[reward] * len(seeds), seed=seeds)
    for seed, folder, seconds in zip(seeds, folders, spent, strict=True):
        after, own_pixels = draw(str(folder / "result"), seed=100 + seed)
        won = fmean(
            (a > b) + 0.5 * (a == b)
            for own, other in zip(after, before, strict=True)
            for a in own
            for b in other
        )
        found.append(
            {
                "seed": seed,
                "seconds": seconds,
                "won": won,
                "diversity": diversity(own_pixels) / diversity(base_pixels),
                "utility before": fmean(value for row in before for value in row),
                "utility after": fmean(value for row in after for value in row),
            }
        )
        print(found[-1], file=sys.stderr, flush=True)
    return found


def measure_speed(*, quick: bool) -> dict[str, float]:
    """Pictures per second of recorded chains and of the pipeline, taken in turns; their ratio."""
    import torch

    from training.tuning.images.loading import load_for_sampling
    from training.tuning.images.schedules import ddim, schedule_of
    from training.tuning.images.trajectories import guided_denoiser, sample, start_noise

    family = load_for_sampling(str(IMAGE.folder), device=torch.device("cpu"))
    count, steps = 16, 12
    height, width = family.native_size
    sampler = ddim(schedule_of(family, steps=steps, height=height, width=width), eta=1.0)
    prompts = image_world.prompts("train", count, 0)

    def recorded() -> None:
        generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
        with torch.no_grad():
            denoise = guided_denoiser(family, family.denoiser, family.encode_prompts(prompts))
            start = start_noise(family.latent_shape(height, width), generators, family.device)
            family.decode_latents(sample(denoise, sampler, start, generators=generators).final)

    def plain() -> None:
        generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
        family.pipeline(
            prompts,
            generator=generators,
            num_inference_steps=steps,
            guidance_scale=1.0,
            eta=1.0,
            height=height,
            width=width,
            output_type="pt",
        )

    found: dict[str, list[float]] = {"recorded": [], "plain": []}
    for _ in range(2 if quick else 12):
        for name, work in (("recorded", recorded), ("plain", plain)):
            started = time.perf_counter()
            work()
            found[name].append(count / (time.perf_counter() - started))
    ratios = [one / other for one, other in zip(found["recorded"], found["plain"], strict=True)]
    return {name: median(values) for name, values in found.items()} | {"ratio": median(ratios[1:])}


def measure_curves(work: Path, *, quick: bool) -> dict[str, list[float]]:
    """Kilobytes as JPEG of the pictures of each step, with DDPO on fewer and on more of them."""
    weights = {"compressibility": -1.0, "incompressibility": 1.0}
    rewards = [[{"rule": "jpeg_size", "weight": weight}] for weight in weights.values()]
    config = CURVE | {"max_steps": 3 if quick else 80}
    tune_together([work / name for name in weights], "ddpo", config, reward=rewards, seed=[1, 1])
    return {name: [row["reward/jpeg_size"] for row in metrics(work / name)] for name in weights}


def plot(curves: dict[str, list[float]], path: Path) -> None:
    """Kilobytes over steps, and their mean over five."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "curves"
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for name, values in curves.items():
        (line,) = axes.plot(range(1, len(values) + 1), values, alpha=0.3, linewidth=1)
        smooth = [fmean(values[max(0, at - 4) : at + 1]) for at in range(len(values))]
        axes.plot(range(1, len(values) + 1), smooth, color=line.get_color(), label=name)
    axes.set_xlabel("DDPO steps of 64 pictures")
    axes.set_ylabel("kilobytes as JPEG")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def report(found: dict[str, Any], options: Sequence[str]) -> str:
    """The results as a page."""
    lines = [
        "# Image methods on rewards",
        "",
        f"`{' '.join(['python -m benchmarks.image_online', *options])}`",
        "",
    ]
    if speed := found.get("speed"):
        lines += [
            f"- Recorded chains: {speed['recorded']:.1f} pictures per second, the pipeline "
            f"{speed['plain']:.1f}; ratio {speed['ratio']:.3f} (target 0.95)."
        ]
    for taste in found.get("taste", []):
        lines += [
            f"- `flow_grpo` on the hidden utility, seed {taste['seed']}, {taste['seconds']:.0f} s: wins "
            f"{taste['won']:.1%} against the base at independent seeds with {taste['diversity']:.2f} of its "
            f"diversity; mean utility {taste['utility before']:.2f} before, {taste['utility after']:.2f} "
            "after."
        ]
    if found.get("taste"):
        won, apart = means(found["taste"])
        lines += [f"- Means: **{won:.1%}** (target 80 %) with **{apart:.2f}** of the diversity (target 0.8)."]
    for name, values in found.get("curves", {}).items():
        lines += [
            f"- DDPO for {name}: {fmean(values[:3]):.3f} kB in the first three steps, "
            f"{fmean(values[-3:]):.3f} in the last three of {len(values)}."
        ]
    return "\n".join(lines) + "\n"


def means(taste: list[dict[str, float]]) -> tuple[float, float]:
    """Share won and diversity over the seeds."""
    return fmean(one["won"] for one in taste), fmean(one["diversity"] for one in taste)


def missed(found: dict[str, Any]) -> list[str]:
    """The targets that were not met."""
    problems = []
    if "speed" in found and found["speed"]["ratio"] < 0.95:
        problems.append("speed")
    if "taste" in found and min(means(found["taste"])) < 0.8:
        problems.append("taste")
    if curves := found.get("curves"):
        ends = {name: fmean(values[-3:]) - fmean(values[:3]) for name, values in curves.items()}
        if not ends["compressibility"] < 0 < ends["incompressibility"]:
            problems.append("curves")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it works")
    parser.add_argument("--only", choices=["speed", "taste", "curves"], action="append")
    parser.add_argument("--write", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    wanted = options.only or ["speed", "taste", "curves"]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        if "speed" in wanted:
            found["speed"] = measure_speed(quick=options.quick)
        if "taste" in wanted:
            found["taste"] = measure_taste(Path(folder), quick=options.quick)
        if "curves" in wanted:
            found["curves"] = measure_curves(Path(folder), quick=options.quick)
    page = report(found, [*(["--quick"] * options.quick), *(f"--only {one}" for one in options.only or [])])
    sys.stdout.write(page)
    if options.write:
        options.write.write_text(page)
    if options.plot and "curves" in found:
        plot(found["curves"], options.plot)
    problems = [] if options.quick else missed(found)
    if problems:
        sys.stdout.write(f"missed: {', '.join(problems)}\n")
    return bool(problems)


if __name__ == "__main__":
    raise SystemExit(main())
