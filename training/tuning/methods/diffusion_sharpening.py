"""Diffusion-Sharpening: what a search over noises finds becomes part of the model.

1. Every picture has, per epoch, one place on the sampler's schedule, and ``noises`` of its own there.
2. Each is rolled ``roll`` deterministic steps without gradient; its score is the mean reward of the clean
   pictures on the way.
3. ``sft``: the denoising error on the steps of the best noise alone. ``rlhf``: the picture is drawn anew from
   each noise, and best and worst are compared as in Diffusion-DPO, against the model before training. The
   target of all steps is the noise at their start.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.tuning.config import DiffusionSharpeningConfig
from training.tuning.data import Group
from training.tuning.images.data import to_image
from training.tuning.images.direct import Direct, Micro, inspect_direct
from training.tuning.images.errors import NoisyGroups
from training.tuning.images.groups import Chosen
from training.tuning.images.preparation import autocast
from training.tuning.images.samples import sampling_for
from training.tuning.images.schedules import Sampler, ddim, schedule_of
from training.tuning.images.scores import open_picture_rewards
from training.tuning.images.trajectories import Denoise, guided_denoiser, sample, step, told_guidance
from training.tuning.losses.sharpening import best_and_worst, sharpening_dpo_loss
from training.tuning.metrics import Means
from training.tuning.rewards.compose import Rewards
from training.tuning.run import Run

NEEDS = "a picture"


@dataclass(frozen=True)
class Rolled:
    """A picture's noise and the latents (m, C, h, w) on its way through m steps from index ``start``."""

    noise: Float[Tensor, "C h w"]
    states: Float[Tensor, "m C h w"]
    start: int


def train(run: Run) -> None:
    """Train a policy on the noises that do best. See the module for the steps."""
    config: DiffusionSharpeningConfig = run.config
    rewards = open_picture_rewards(run)
    compared = config.loss == "rlhf"
    work = Direct(run, all_pictures, needs=NEEDS, reference="live" if compared else None)
    for number in work.begin():
        means = Means()
        micro_batches = work.micro_batches(number)
        count = sum(len(work.train.groups[at].files) for micro in micro_batches for at in micro.groups)
        for micro in micro_batches:
            for loss, values in picture_losses(work, rewards, micro):
                (loss / count).backward()
                means.add(values, torch.ones(1))
        work.end_step(number, means, lambda: work.evaluate(partial(held_out, work)))
    work.finish()


def inspect(run: Run) -> dict[str, Any]:
    """The rows as ``train`` will see them."""
    return inspect_direct(run, all_pictures)


def all_pictures(group: Group) -> Chosen | str:
    """Every picture of a row, whatever was said about it."""
    return Chosen(list(range(len(group.candidates)))) if group.candidates else "no picture"


def held_out(work: Direct, micro: Micro, source: str) -> tuple[dict[str, Tensor], Tensor]:
    """The plain denoising error of held-out pictures."""
    errors = work.read(micro, source=source).policy
    return {"error": errors}, torch.ones_like(errors)


def picture_losses(
    work: Direct, rewards: Rewards, micro: Micro
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """For every picture of a micro-batch its loss, and what is logged of it; one after another, so that each
    can be followed by its backward pass.
    """
    config, policy, family = work.run.config, work.policy, work.policy.family
    batch = work.noisy(micro)
    names, prompts = work.names(micro), [work.train.groups[at].prompt for at in micro.groups]
    sampler = sampler_for(work, batch)
    for row, owner in enumerate(batch.owner.tolist()):
        rng = random.Random(f"{work.run.seed}/{names[owner]}/{row}/{micro.draw}")
        conditioning = {name: value[owner : owner + 1] for name, value in batch.conditioning.items()}
        denoise = denoiser(work, policy.denoiser, conditioning)
        start = rng.randrange(sampler.steps - config.roll + 1)
        tries = [roll(denoise, sampler, batch.latents[row], start, rng, config) for _ in range(config.noises)]
        scores = torch.stack([score(family, rewards, prompts[owner], sampler, denoise, one) for one in tries])
        best, worst = (int(at) for at in best_and_worst(scores[None]))
        error = noise_error(denoise, sampler, tries[best])
        values = {"reward": scores[best], "reward_gap": scores[best] - scores[worst], "error": error}
        if config.loss == "sft":
            yield error, {"loss": error[None]} | {name: value[None] for name, value in values.items()}
            continue
        other = noise_error(denoise, sampler, tries[worst])
        with torch.no_grad(), policy.as_reference() as module:
            reference = denoiser(work, module, conditioning)
            before = [noise_error(reference, sampler, tries[at]) for at in (best, worst)]
        loss = sharpening_dpo_loss(
            error[None], other[None], before[0][None], before[1][None], beta=config.beta
        )
        yield loss.sum(), {"loss": loss} | {name: value[None] for name, value in values.items()}


@torch.no_grad()
def roll(
    denoise: Denoise,
    sampler: Sampler,
    clean: Float[Tensor, "C h w"],
    start: int,
    rng: random.Random,
    config: DiffusionSharpeningConfig,
) -> Rolled:
    """Noise a picture at a step of the sampler, and take ``roll`` steps from there. For ``rlhf`` the picture
    is the model's own, drawn from that noise.
    """
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    if config.loss == "rlhf":
        clean = sample(denoise, sampler, noise[None], generators=generator).final[0]
    alpha, sigma = (float(level[start]) for level in (sampler.schedule.alphas, sampler.schedule.sigmas))
    chain = sample(
        denoise,
        sampler,
        (alpha * clean + sigma * noise)[None],
        generators=generator,
        first=start,
        end=start + config.roll,
    )
    return Rolled(noise, torch.cat(chain.states[:-1]), start)


@torch.no_grad()
def score(
    family: Any, rewards: Rewards, prompt: str, sampler: Sampler, denoise: Denoise, rolled: Rolled
) -> Float[Tensor, ""]:
    """The mean reward of the clean pictures of a noise's steps."""
    clean = [
        step(denoise, sampler, state[None], rolled.start + at).clean for at, state in enumerate(rolled.states)
    ]
    pictures = [to_image(pixels) for pixels in family.decode_latents(torch.cat(clean)).cpu()]
    return rewards.parts([prompt] * len(pictures), pictures).total.float().mean()


def noise_error(denoise: Denoise, sampler: Sampler, rolled: Rolled) -> Float[Tensor, ""]:
    """The mean squared error of the predicted noise over a noise's steps; the noise at their start is the
    target of all.
    """
    errors = [
        (step(denoise, sampler, state[None], rolled.start + at).noise[0] - rolled.noise).square().mean()
        for at, state in enumerate(rolled.states)
    ]
    return torch.stack(errors).mean()


def sampler_for(work: Direct, batch: NoisyGroups) -> Sampler:
    """The deterministic sampler of pictures of this size."""
    family = work.policy.family
    factor = int(family.pipeline.vae_scale_factor)
    height, width = (side * factor for side in batch.latents.shape[-2:])
    steps = sampling_for(work.run.config, family).num_inference_steps
    return ddim(schedule_of(family, steps=steps, height=height, width=width), eta=0.0)


def denoiser(work: Direct, module: nn.Module, conditioning: dict[str, Tensor]) -> Denoise:
    """``module`` at one prompt, without guidance."""
    family, config = work.policy.family, work.run.config
    scale = sampling_for(config, family).guidance_scale
    told = told_guidance(family, conditioning, scale=scale)
    return guided_denoiser(family, module, told, autocast=autocast(config))
