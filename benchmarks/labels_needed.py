"""How many labels a reward model needs: questions in the order of `training.designs`, against random ones.

Answers are scored once with features: of their surface, and on the demo of a reward model that has learnt
nothing yet. Then, batch by batch, a linear reward learns from all answers so far in closed form, its accuracy
is measured on held-out prompts, and the next batch is asked: at random, or in the order that `prioritise`
gives by `last_layer` or `design`. All arms share pool, first batch, labels and seeds.

demo          all pairs of four answers that the demo's base wrote to each prompt; a noisy person with its
              hidden utility (Bradley-Terry)
pandalm       PandaLM's pairs, one of the three people's choices drawn by the seed; truth is the majority
fine_grained  the decided pairs of the fine-grained answers, as they were judged; passages are in the prompt

`--development` draws other prompts on the demo, and the even ones of the fine-grained questions: settings
were chosen there, without PandaLM. Without it the report is about the others.

Labels to reach a level are read off the mean curve over seeds, made monotone and interpolated; the level is
what random questions reach on average with three quarters of the labels. Intervals resample seeds (95 %).

    python -m benchmarks.labels_needed [--quick] [--seeds 20] [--data FOLDER] [--write FILE] [--plot FILE]
"""

import argparse
import itertools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.special import expit

from benchmarks.frontier import answers, run, write_rows
from benchmarks.reward_vs_trl import fine_grained, pandalm
from training import designs
from training.acquisition import Floats
from webapp.demo import text_world
from webapp.demo.worlds import TEXT

ARMS: Final = ("random", "last_layer", "design")
TARGET: Final = 0.6
FIRST, BATCH, FEATURES = 20, 20, 64
ANSWERS = 4  # of the demo's base to each prompt
HELD_OUT: Final = 0.3


@dataclass(frozen=True)
class Pool:
    """Questions of two candidates: features (N, 2, D), the chance (N,) that a person chooses the first, which
    is truly better (0, or 1 for the second), and the prompt's number."""

    features: Floats
    chance: Floats
    better: Floats
    prompt: Floats


def main() -> int:
    """Measure, print, and say by the exit code whether the target was met everywhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few prompts, three seeds")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--labels", type=int, default=300)
    parser.add_argument("--development", action="store_true", help="the prompts that settings were chosen on")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--write", type=Path, help="write the result as Markdown")
    parser.add_argument("--plot", type=Path, help="draw the result")
    options = parser.parse_args()
    seeds = 3 if options.quick else options.seeds
    with tempfile.TemporaryDirectory() as name:
        pools = pools_of(Path(name), options.data, quick=options.quick, development=options.development)
    curves = {
        name: {
            arm: np.array([learn(pool, arm, seed, labels=options.labels) for seed in range(seeds)])
            for arm in ARMS
        }
        for name, pool in pools.items()
    }
    report = describe(curves, seeds=seeds, labels=options.labels)
    print(report)
    if options.write:
        options.write.write_text(report + "\n", encoding="utf-8")
    if options.plot:
        draw(options.plot, curves)
    return 0 if max(ratio(found, "last_layer")[0] for found in curves.values()) <= TARGET else 1


def pools_of(folder: Path, data: Path, *, quick: bool, development: bool) -> dict[str, Pool]:
    """The pools; the real ones only where their data lies, and PandaLM for the report alone."""
    found = {"demo": demo_pool(folder / "demo", 150 if quick else 700, seed=3 if development else 4)}
    if not (data / "pandalm_human_pairs.json").exists():
        return found
    if not development:
        found["pandalm"] = real_pool(folder / "pandalm", pandalm(data), votes_of(data))
    parity = 0 if development else 1
    found["fine_grained"] = real_pool(folder / "fine_grained", with_passages(data)[parity::2], {})
    return found


def with_passages(data: Path) -> list[dict[str, Any]]:
    """The fine-grained groups; the prompt is what people saw, the question and its passages."""
    told = {
        row["question"]: "\n".join([row["question"], *(" ".join(part) for part in row["passages"])])
        for row in json.loads((data / "fine_grained_qa_feedback.json").read_text())
    }
    return [row | {"prompt": told[row["prompt"]]} for row in fine_grained(data)]


def demo_pool(folder: Path, count: int, *, seed: int) -> Pool:
    """All pairs of the base's answers to each prompt; those with the same utility are left out."""
    folder.mkdir()
    prompts = text_world.prompts("train", count, seed)
    found = answers(folder / "w", str(TEXT.folder), prompts, each_prompt=ANSWERS)
    rows = [{"prompt": prompt, "candidates": [{"text": text} for text in texts]} for prompt, texts in found]
    features, gaps, numbers = [], [], []
    for number, ((prompt, texts), own) in enumerate(
        zip(found, features_of(folder, TEXT.reward_folder, rows), strict=True)
    ):
        utilities = [text_world.utility(prompt, text) for text in texts]
        for one, other in itertools.combinations(range(len(texts)), 2):
            if abs(gap := utilities[one] - utilities[other]) > 1e-9:
                features.append(own[[one, other]])
                gaps.append(gap)
                numbers.append(float(number))
    gap = np.array(gaps)
    return Pool(np.array(features), expit(gap), (gap < 0).astype(float), np.array(numbers))


def real_pool(folder: Path, rows: Sequence[dict[str, Any]], votes: dict[str, float]) -> Pool:
    """People's pairs; ``votes``: the share for the first answer, by prompt and answers."""
    folder.mkdir()
    asked = [{key: row[key] for key in ("prompt", "candidates")} for row in rows]
    found = features_of(folder, None, asked)
    features, chance, better, prompt = [], [], [], []
    numbers = {text: number for number, text in enumerate(dict.fromkeys(str(row["prompt"]) for row in rows))}
    for row, own in zip(rows, found, strict=True):
        for judgement in row["judgements"]:
            (good,), (bad,) = judgement["ranking"]
            one, other = sorted((good, bad))
            features.append(own[[one, other]])
            better.append(float(good == other))
            key = json.dumps([row["prompt"], *(item["text"] for item in row["candidates"])])
            chance.append(votes.get(key, float(good == one)))
            prompt.append(float(numbers[str(row["prompt"])]))
    return Pool(np.array(features), np.array(chance), np.array(better), np.array(prompt))


def votes_of(data: Path) -> dict[str, float]:
    """PandaLM's share of people for the first answer, ties left out."""
    found = {}
    for row in json.loads((data / "pandalm_human_pairs.json").read_text()):
        votes = [row[f"annotator{number}"] for number in (1, 2, 3)]
        texts = [str(row[name]).strip() for name in ("response1", "response2")]
        prompt = f"{row['instruction']}\n{row['input']}".strip()
        if decided := votes.count(1) + votes.count(2):
            found[json.dumps([prompt, *texts])] = votes.count(1) / decided
    return found


def features_of(folder: Path, base: str | None, rows: list[dict[str, Any]]) -> list[Floats]:
    """Features (K, D) of each row's candidates, by a scoring: of the surface, and of a reward model on
    ``base`` that has learnt nothing, if there is one."""
    write_rows(folder / "rows.jsonl", rows)
    config: dict[str, Any] = {"surface": True, "batch_size": 32}
    if base is None:
        scored = run(folder / "score", "score", None, config, folder / "rows.jsonl", [{"rule": "words"}])
    else:
        write_rows(folder / "one.jsonl", [{"prompt": rows[0]["prompt"], "chosen": "yes", "rejected": "no"}])
        nothing = {"max_steps": 1, "learning_rate": 1e-12, "lora": None, "max_length": 256}
        model = run(folder / "model", "reward_model", base, nothing, folder / "one.jsonl")
        config |= {"features": FEATURES, "max_length": 256}
        scored = run(folder / "score", "score", str(model), config, folder / "rows.jsonl")
    lines = (scored / "scores.jsonl").read_text().splitlines()
    return [np.array(json.loads(line)["features"], dtype=float) for line in lines]


def learn(pool: Pool, arm: str, seed: int, *, labels: int) -> list[float]:
    """Accuracy on held-out prompts after FIRST labels, and after each batch more."""
    rng = np.random.default_rng(seed)
    prompts = rng.permutation(np.unique(pool.prompt))
    is_held_out = np.isin(pool.prompt, prompts[: round(HELD_OUT * len(prompts))])
    test, rest = np.flatnonzero(is_held_out), rng.permutation(np.flatnonzero(~is_held_out))
    choices = (rng.uniform(size=len(pool.chance)) >= pool.chance).astype(int)
    scale = designs.scale_of(list(pool.features))
    groups = pool.features * scale
    asked, left = list(rest[:FIRST]), list(rest[FIRST:])
    accuracies = []
    while True:
        chosen = [int(choices[at]) for at in asked]
        belief = designs.learn(*designs.compared(groups[asked], chosen, size=len(scale)))
        scores = groups[test] @ belief.mean
        accuracies.append(float(((scores[:, 1] > scores[:, 0]) == (pool.better[test] == 1)).mean()))
        if len(asked) + BATCH > min(labels, len(rest)):
            return accuracies
        open_ones, known = pool.features[left], pool.features[asked]
        if arm == "last_layer":
            order = designs.order_by_last_layer(open_ones, known, chosen, count=BATCH)
        elif arm == "design":
            order = designs.order_by_design(open_ones, known, count=BATCH)
        else:
            order = list(range(len(left)))
        picked = set(order[:BATCH])
        asked += [left[at] for at in order[:BATCH]]
        left = [one for at, one in enumerate(left) if at not in picked]


def needed(curve: Floats, level: float) -> float:
    """Labels at which a mean curve, made monotone, reaches a level; inf if it never does."""
    rising = np.maximum.accumulate(curve)
    labels = FIRST + BATCH * np.arange(len(rising))
    if rising[-1] < level:
        return float("inf")
    at = int(np.argmax(rising >= level))
    if at == 0:
        return float(labels[0])
    low, high = rising[at - 1], rising[at]
    return float(labels[at - 1] + BATCH * (level - low) / (high - low))


def level_of(curves: dict[str, Floats]) -> float:
    """What random questions reach with three quarters of the labels."""
    mean = np.maximum.accumulate(curves["random"].mean(axis=0))
    return float(mean[round(0.75 * (len(mean) - 1))])


def ratio(curves: dict[str, Floats], arm: str) -> tuple[float, float, float]:
    """Labels needed by an arm over those of random choice, with its interval over resampled seeds."""

    def of(rows: Floats) -> float:
        part = {name: curve[rows] for name, curve in curves.items()}
        level = level_of(part)
        return needed(part[arm].mean(axis=0), level) / needed(part["random"].mean(axis=0), level)

    seeds = len(curves["random"])
    rng = np.random.default_rng(0)
    drawn = [of(rng.integers(seeds, size=seeds)) for _ in range(1000)]
    low, high = np.percentile(drawn, [2.5, 97.5], method="nearest")
    return of(np.arange(seeds)), float(low), float(high)


def describe(curves: dict[str, dict[str, Floats]], *, seeds: int, labels: int) -> str:
    lines = [
        "# Labels that a reward model needs",
        "",
        f"`python -m benchmarks.labels_needed --seeds {seeds} --labels {labels}`: a linear reward on "
        f"features of the surface, on the demo with {FEATURES} of a model; {FIRST} random labels first, then "
        f"{BATCH} at a time; prompts are held out. In brackets the level, what random questions reach with "
        "three quarters of the labels. The built-in strategy is `last_layer`; settings were chosen with "
        "`--development`, on other prompts.",
        "",
        "| data | order | labels to the level | of random choice | 95 % over seeds | target |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in curves.items():
        level = level_of(found)
        for arm in ARMS:
            value, low, high = ratio(found, arm)
            count = needed(found[arm].mean(axis=0), level)
            band = f"{low:.2f} to {high:.2f}"
            lines.append(f"| {name} ({level:.3f}) | {arm} | {count:.0f} | {value:.2f} | {band} | {TARGET} |")
    return "\n".join(lines).replace(" inf |", " not reached |").replace("to inf", "to not reached")


def draw(path: Path, curves: dict[str, dict[str, Floats]]) -> None:
    """A panel for each pool: mean accuracy over labels, with bands of two standard errors."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "labels"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 3.2), squeeze=False)
    for axis, (name, found) in zip(axes[0], curves.items(), strict=True):
        for arm, curve in found.items():
            mean, error = curve.mean(axis=0), curve.std(axis=0) / len(curve) ** 0.5
            labels = FIRST + BATCH * np.arange(len(mean))
            axis.plot(labels, mean, label=arm.replace("_", " "))
            axis.fill_between(labels, mean - 2 * error, mean + 2 * error, alpha=0.2)
        axis.set(title=name.replace("_", "-"), xlabel="labels", ylabel="held-out accuracy")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    raise SystemExit(main())
