"""Supervised training of an image model on pictures that were preferred, or that score well.

1. Every picture gets a weight: its votes (of two, the chosen); exp(score / τ) (reward-weighted regression,
   arXiv:2501.13918); its score above a threshold (GORS, arXiv:2307.06350); or how likely it is to be picked
   of its group (self-consuming training on curated pictures, arXiv:2407.09499). Scores come from rewards, or
   from people's ratings.
2. Every group has, per epoch, one noise and one timestep for all its pictures.
3. The denoising errors times the weights. Votes and picks are probabilities: they are divided by their sum;
   weights of scores are not, as published.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from training.tuning.config import ImageSFTConfig
from training.tuning.data import Group
from training.tuning.errors import BadInput
from training.tuning.images.direct import Direct, Micro, inspect_direct
from training.tuning.images.groups import Choose, Chosen, ImageGroup
from training.tuning.images.scores import kept_scores
from training.tuning.labels import make_labels, make_scores
from training.tuning.losses.weighted_regression import (
    curated_weights,
    exponential_weights,
    threshold_weights,
)
from training.tuning.metrics import Means
from training.tuning.run import Run

NEEDS = "a picture that was preferred, scored or shown"
Weigh = Callable[[Group], dict[int, float] | str]


def train(run: Run) -> None:
    """Train a policy on weighted pictures. See the module for the steps."""
    config: ImageSFTConfig = run.config
    work = Direct(run, choose(run), needs=NEEDS, reference=None)

    def measure(micro: Micro, source: str) -> tuple[dict[str, Tensor], Tensor]:
        reading = work.read(micro, source=source)
        weight = reading.policy.new_tensor([value for group in reading.groups for value in group.good])
        return {"loss": reading.policy}, weight

    for step in work.begin():
        means = Means()
        micro_batches = work.micro_batches(step)
        groups = [work.train.groups[index] for micro in micro_batches for index in micro.groups]
        divisor = normaliser(groups, config)
        for micro in micro_batches:
            values, weight = measure(micro, "train")
            (values["loss"] * weight).sum().div(divisor).backward()
            means.add(values, weight)
        work.end_step(step, means, lambda: work.evaluate(measure))
    work.finish()


def inspect(run: Run) -> dict[str, Any]:
    """The rows as ``train`` will see them."""
    return inspect_direct(run, choose(run))


def normaliser(groups: Sequence[ImageGroup], config: ImageSFTConfig) -> float:
    """What a step's sum of weighted errors is divided by: the weights' sum, or the number of pictures."""
    if config.weights in ("votes", "softmax"):
        return sum(sum(group.good) for group in groups)
    return sum(len(group.good) for group in groups)


def choose(run: Run) -> Choose:
    """The pictures of a row that weigh something, with their weights."""
    config: ImageSFTConfig = run.config
    weigh = weigh_by_votes(config) if config.weights == "votes" else weigh_by_scores(run, config)

    def chosen(group: Group) -> Chosen | str:
        picked = config.weights in ("votes", "softmax")
        shown = picked and is_demonstration(group)
        found = {0: config.demonstration_weight} if shown else weigh(group)
        if isinstance(found, str):
            return found
        weights = {at: weight for at, weight in sorted(found.items()) if weight > 0}
        if not all(math.isfinite(weight) for weight in weights.values()):
            problem = "exp(score / temperature) is too large; take a higher temperature"
            raise BadInput(problem, field="config.temperature", file=run.dir.train_file, line=group.line)
        return Chosen(list(weights), good=list(weights.values())) if weights else "no picture weighs anything"

    return chosen


def is_demonstration(group: Group) -> bool:
    """Whether a row is one picture about which nobody said anything."""
    return len(group.candidates) == 1 and not group.judgements


def weigh_by_votes(config: ImageSFTConfig) -> Weigh:
    """Weights of a row's pictures by how often they were called good."""

    def weigh(group: Group) -> dict[int, float] | str:
        labels = make_labels(group, config)
        if not labels:
            return "no thumb, choice or ranking"
        return {label.candidate: label.good for label in labels}

    return weigh


def weigh_by_scores(run: Run, config: ImageSFTConfig) -> Weigh:
    """Weights of a row's pictures by their scores."""
    by_reward: dict[int, list[float]] = {}
    for part, groups in (("train", run.train), ("eval", run.eval)) if run.reward else ():
        scores = kept_scores(run, groups, part=part) if groups else []
        by_reward |= {id(group): own for group, own in zip(groups, scores, strict=True)}

    def weigh(group: Group) -> dict[int, float] | str:
        own = by_reward[id(group)] if by_reward else make_scores(group, config)
        at = [index for index, score in enumerate(own) if score is not None and not math.isnan(score)]
        if not at:
            return "no rating; give ratings or a reward list"
        scores = torch.tensor([own[index] for index in at], dtype=torch.float64)
        return dict(zip(at, score_weights(scores, config).tolist(), strict=True))

    return weigh


def score_weights(scores: Tensor, config: ImageSFTConfig) -> Tensor:
    """Weights (K,) of the scored pictures of one group."""
    if config.weights == "exp_score":
        return exponential_weights(scores, temperature=config.temperature)
    if config.weights == "threshold":
        return threshold_weights(scores, threshold=config.threshold)
    return curated_weights(scores, temperature=config.temperature)
