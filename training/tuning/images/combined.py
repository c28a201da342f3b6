"""Drawing with a model up to a step, and with what was tuned from it from there on (ImageReFL)."""

from collections.abc import Sequence

import torch
from PIL import Image

from training.tuning.images.chains import pictures_of
from training.tuning.images.families import Family
from training.tuning.images.generation import Request, Sampling
from training.tuning.images.policies import ImagePolicy
from training.tuning.images.schedules import ddim, schedule_of
from training.tuning.images.trajectories import (
    guided_denoiser,
    make_guidance,
    sample,
    start_noise,
    told_guidance,
)


@torch.no_grad()
def draw_combined(
    family: Family,
    requests: Sequence[Request],
    sampling: Sampling,
    *,
    share: float,
    tuned_guidance: float,
    autocast: torch.dtype | None,
) -> list[Image.Image]:
    """A picture for each request, without noise on the way: the first ``share`` of the steps by the model
    below the adapter, with the sampling's guidance, which settles what is drawn; the others by the tuned one.
    """
    native = family.native_size
    height, width = sampling.height or native[0], sampling.width or native[1]
    schedule = schedule_of(family, steps=sampling.num_inference_steps, height=height, width=width)
    sampler, until = ddim(schedule, eta=0.0), round(share * schedule.steps)
    generators = [torch.Generator().manual_seed(request.seed) for request in requests]
    latents = start_noise(family.latent_shape(height, width), generators, family.device)
    rows = family.encode_prompts([request.prompt for request in requests])

    def go_on(latents: torch.Tensor, scale: float, *, first: int, end: int) -> torch.Tensor:
        denoise = guided_denoiser(
            family,
            family.denoiser,
            told_guidance(family, rows, scale=scale),
            guidance=make_guidance(family, scale=scale, count=len(requests)),
            autocast=autocast,
        )
        return sample(denoise, sampler, latents, generators=generators, first=first, end=end).final

    with ImagePolicy(family, adapter=True).as_reference():
        latents = go_on(latents, sampling.guidance_scale, first=0, end=until)
    return pictures_of(family, go_on(latents, tuned_guidance, first=until, end=sampler.steps))
