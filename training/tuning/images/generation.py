"""Pictures from prompts, seeded per prompt and sample."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from training.tuning.images.data import to_image
from training.tuning.images.families import Family


@dataclass(frozen=True)
class Request:
    """One picture to make: ``seed`` fixes all its noise."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Sampling:
    """How to sample. guidance_scale 1 means no guidance (half the work). height, width: pixels or None."""

    num_inference_steps: int
    guidance_scale: float
    height: int | None = None
    width: int | None = None


def sample_seed(*, seed: int, prompt: str, occurrence: int, sample: int) -> int:
    """The seed of one picture, from the run's seed, the prompt, which of its repeats, and the sample."""
    digest = hashlib.sha256(f"{seed}\0{prompt}\0{occurrence}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 11


def plan_requests(prompts: Sequence[str], *, samples_per_prompt: int, seed: int) -> list[list[Request]]:
    """Requests per prompt, in the prompts' order. A prompt's pictures do not depend on the other prompts."""
    seen: Counter[str] = Counter()
    plan = []
    for prompt in prompts:
        occurrence = seen[prompt]
        seen[prompt] += 1
        plan.append(
            [
                Request(prompt, sample_seed(seed=seed, prompt=prompt, occurrence=occurrence, sample=sample))
                for sample in range(samples_per_prompt)
            ]
        )
    return plan


@torch.no_grad()
def generate_images(family: Family, requests: Sequence[Request], sampling: Sampling) -> list[Image.Image]:
    """One picture per request, in order, drawn as one batch with the pipeline's own sampler.

    Each picture has a generator of its own, also for samplers that add noise on the way, so that
    it does not depend on its batch (beyond the rounding of matrix products).
    """
    if not requests:
        return []
    height, width = family.native_size
    output = family.pipeline(
        prompt=[request.prompt for request in requests],
        generator=[torch.Generator().manual_seed(request.seed) for request in requests],
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        height=sampling.height or height,
        width=sampling.width or width,
        output_type="pt",
        **family.sampling_options,
        **_told_person(family, len(requests), guided=sampling.guidance_scale > 1),
    )
    return [to_image(pixels * 2 - 1) for pixels in output.images]


def _told_person(family: Family, count: int, *, guided: bool) -> dict[str, Any]:
    """What a pipeline for people is called with; the branch without prompt is told of nobody."""
    if family.person is None:
        return {}
    told = family.person.to(family.device).expand(count, 1, -1)
    return {"ip_adapter_image_embeds": [torch.cat([torch.zeros_like(told), told]) if guided else told]}
