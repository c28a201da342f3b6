"""Diffusion-KTO: tune an image model on single pictures that were liked or disliked. arXiv:2404.04465.

1. Label the pictures: thumbs as they are; of a choice the winner is liked and the others are disliked.
   Repeat one kind until liked pictures make up the share that the config asks for.
2. Every group has, per epoch, one noise and one timestep for all its pictures.
3. Per step: the gain of every picture, by how much the policy denoises it better than the reference; a
   baseline from the gains of the whole batch, without a gradient; then the utility of every gain over the
   baseline, with its sign turned for disliked pictures.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from training.tuning.config import DiffusionKTOConfig
from training.tuning.errors import BadInput
from training.tuning.images.direct import Direct, Micro, Reading, inspect_direct
from training.tuning.images.groups import ImageGroup, labelled
from training.tuning.losses.diffusion_kto import UTILITIES, gains, mean_gain, mean_of_class_means
from training.tuning.metrics import Means
from training.tuning.run import Run

NEEDS = "a thumb (or the columns prompt, completion, label) or a choice"


def train(run: Run) -> None:
    """Train a policy on liked and disliked pictures. See the module for the steps."""
    config: DiffusionKTOConfig = run.config

    def arrange(groups: list[ImageGroup]) -> list[ImageGroup]:
        return groups if config.liked_share is None else balanced(groups, config.liked_share, seed=run.seed)

    work = Direct(
        run, labelled(config), needs=NEEDS, reference=config.reference, draws=config.draws, arrange=arrange
    )
    if config.baseline == "mismatched":
        work.add_source("other", mismatched(work.train.groups), like="train")
        if work.held_out.groups:
            pool = [*work.held_out.groups, *work.train.groups]
            work.add_source("eval-other", mismatched(pool)[: len(work.held_out.groups)], like="eval")

    for step in work.begin():
        means = Means()
        micro_batches = work.micro_batches(step)
        baseline = measure_baseline(work, micro_batches, config, held_out=False)
        votes = sum(
            sum(group.good) + sum(group.bad)
            for micro in micro_batches
            for group in (work.train.groups[index] for index in micro.groups)
        )
        for micro in micro_batches:
            picture_losses(work.read(micro), config, baseline, means).sum().div(votes).backward()
        work.end_step(step, means, lambda: evaluate(work, config))
    work.finish()


def inspect(run: Run) -> dict[str, Any]:
    """The rows as ``train`` will see them."""
    return inspect_direct(run, labelled(run.config))


def picture_losses(reading: Reading, config: DiffusionKTOConfig, baseline: float, means: Means) -> Tensor:
    """Losses of a micro-batch's pictures (N,), each times its votes; the metrics go into ``means``."""
    gain, good, bad = gains_and_votes(reading)
    utility, one = UTILITIES[config.utility], torch.ones_like(gain)
    losses = good * utility(gain, one, beta=config.beta, baseline=baseline)
    losses = losses + bad * utility(gain, -one, beta=config.beta, baseline=baseline)
    means.add({"loss": losses / (good + bad)}, good + bad)
    rewards = config.beta * gain
    means.add({"rewards/chosen": rewards, "errors/chosen": reading.policy}, good)
    means.add({"rewards/rejected": rewards, "errors/rejected": reading.policy}, bad)
    means.add({"baseline": baseline * one}, one)
    return losses


def gains_and_votes(reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
    """Gain, votes for good and votes for bad of every picture, all (N,)."""
    gain = gains(reading.policy, reading.reference)
    good = gain.new_tensor([vote for group in reading.groups for vote in group.good])
    bad = gain.new_tensor([vote for group in reading.groups for vote in group.bad])
    return gain, good, bad


@torch.no_grad()
def measure_baseline(
    work: Direct, micro_batches: Sequence[Micro], config: DiffusionKTOConfig, *, held_out: bool
) -> float:
    """Q of a step, of all its pictures whatever the split into micro-batches."""
    if config.baseline == "none":
        return 0.0
    source = (
        ("eval" if held_out else "train")
        if config.baseline != "mismatched"
        else ("eval-other" if held_out else "other")
    )
    found = [gains_and_votes(work.read(micro, source=source)) for micro in micro_batches]
    gain, good, bad = (torch.cat(parts) for parts in zip(*found, strict=True))
    return (mean_of_class_means if config.baseline == "class_means" else mean_gain)(gain, good, bad)


def evaluate(work: Direct, config: DiffusionKTOConfig) -> dict[str, float]:
    """The training metrics on held-out groups, with their own baseline."""
    means = Means()
    baseline = measure_baseline(work, work.eval_micro_batches, config, held_out=True)
    for micro in work.eval_micro_batches:
        picture_losses(work.read(micro, source="eval"), config, baseline, means)
    return means.result()


def balanced(groups: Sequence[ImageGroup], share: float, *, seed: int) -> list[ImageGroup]:
    """Liked and disliked pictures in groups of their own, the scarcer repeated until the liked votes make up
    ``share`` of all, as a sampler would draw them. Repeats have noise of their own.
    """
    liked = [part for group in groups if (part := _only(group, good=True))]
    disliked = [part for group in groups if (part := _only(group, good=False))]
    if not liked or not disliked:
        kind = "disliked" if liked else "liked"
        raise BadInput(f"there is no {kind} picture to make up its share", field="config.liked_share")
    good = sum(vote for group in liked for vote in group.good)
    bad = sum(vote for group in disliked for vote in group.bad)
    times = share * bad / ((1 - share) * good)  # of the liked, for one of the disliked
    return [*_repeated(liked, max(1.0, times), seed), *_repeated(disliked, max(1.0, 1 / times), seed)]


def mismatched(groups: Sequence[ImageGroup]) -> list[ImageGroup]:
    """Every group with the next other prompt in the list, which is read with the group's own noise."""
    found = []
    for at, group in enumerate(groups):
        others = (one.prompt for one in (*groups[at + 1 :], *groups[:at]))
        other = next((prompt for prompt in others if prompt != group.prompt), None)
        if other is None:
            problem = "mismatched needs at least two prompts"
            raise BadInput(problem, field="config.baseline")
        found.append(replace(group, prompt=other))
    return found


def _only(group: ImageGroup, *, good: bool) -> ImageGroup | None:
    votes = group.good if good else group.bad
    kept = [at for at, vote in enumerate(votes) if vote]
    if not kept:
        return None
    own = [votes[at] for at in kept]
    none = [0.0] * len(kept)
    return replace(
        group,
        name=f"{group.name}:{'liked' if good else 'disliked'}",
        files=[group.files[at] for at in kept],
        good=own if good else none,
        bad=none if good else own,
    )


def _repeated(groups: Sequence[ImageGroup], times: float, seed: int) -> list[ImageGroup]:
    """Every group as often as the whole part of ``times`` says, and as many of them as the rest asks once
    more.
    """
    whole = math.floor(times)
    rest = random.Random(f"{seed}/balance").sample(list(groups), round((times - whole) * len(groups)))
    rounds = [list(groups)] * whole + [rest]
    return [
        replace(group, name=f"{group.name}:{number}") for number, some in enumerate(rounds) for group in some
    ]
