"""Pictures that a method draws while it trains, for prompts that it has encoded already."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.tuning.images.errors import NoisyGroups
from training.tuning.images.families import Family
from training.tuning.images.preparation import autocast
from training.tuning.images.samples import sampling_for
from training.tuning.images.schedules import ddim, schedule_of
from training.tuning.images.trajectories import (
    guided_denoiser,
    make_guidance,
    sample,
    start_noise,
    told_guidance,
)
from training.tuning.run import Run


def draw_latents(
    run: Run, family: Family, module: nn.Module, groups: NoisyGroups, *, keys: Sequence[str]
) -> Float[Tensor, "G C h w"]:
    """The latents of a picture by ``module`` for every group, of the size of the group's own, without noise
    on the way; each group's entry of ``keys`` and the run's seed decide about it.
    """
    sampling = sampling_for(run.config, family)
    count = len(groups.timesteps)
    factor = int(family.pipeline.vae_scale_factor)
    height, width = (side * factor for side in groups.latents.shape[-2:])
    schedule = schedule_of(family, steps=sampling.num_inference_steps, height=height, width=width)
    generators = [_generator(f"{run.seed}\0{key}") for key in keys]
    denoise = guided_denoiser(
        family,
        module,
        told_guidance(family, groups.conditioning, scale=sampling.guidance_scale),
        guidance=make_guidance(family, scale=sampling.guidance_scale, count=count),
        autocast=autocast(run.config),
    )
    start = start_noise(groups.latents.shape[1:], generators, family.device)
    return sample(denoise, ddim(schedule, eta=0.0), start, generators=generators).final


def _generator(key: str) -> torch.Generator:
    digest = hashlib.sha256(key.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 11)
