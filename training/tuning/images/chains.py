"""Pictures that can be drawn again, chain and all: from what was recorded when they were drawn.

A record is small: seeds and how the chain was sampled. The chain comes back by sampling it once more with the
model that drew it, and is checked against the picture.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from training.tuning.data import Group
from training.tuning.images.data import open_image, to_image, to_pixels
from training.tuning.images.families import Conditioning, Family
from training.tuning.images.schedules import Sampler, ddim, schedule_of
from training.tuning.images.trajectories import (
    Chain,
    Denoise,
    guided_denoiser,
    make_guidance,
    sample,
    start_noise,
    told_guidance,
)

CLOSE = 0.02  # mean distance in 0..1 of a picture and the one that its record gives


class ChainRecord(BaseModel):
    """How a row's pictures were drawn: ``meta.chains``, as the job that draws pictures writes it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seeds: list[int]
    num_inference_steps: int = Field(ge=1)
    guidance_scale: float = Field(ge=0)
    eta: float = Field(gt=0, le=1)
    height: int = Field(ge=8)
    width: int = Field(ge=8)
    precision: Literal["fp32", "bf16"]

    @property
    def settings(self) -> tuple[object, ...]:
        """What chains of one micro-batch have in common."""
        return tuple(self.model_dump(exclude={"seeds"}).values())

    def sampler(self, family: Family) -> Sampler:
        """DDIM with the recorded noise."""
        schedule = schedule_of(family, steps=self.num_inference_steps, height=self.height, width=self.width)
        return ddim(schedule, eta=self.eta)


def record_of(group: Group) -> ChainRecord | None:
    """The record of a row's pictures, one seed for each; None without one, or with one that does not fit."""
    try:
        record = ChainRecord.model_validate(group.meta.get("chains"))
    except ValidationError:
        return None
    return record if len(record.seeds) == len(group.candidates) else None


def recorded_denoiser(
    family: Family,
    module: nn.Module,
    conditioning: Conditioning,
    record: ChainRecord,
    *,
    autocast: torch.dtype | None,
) -> Denoise:
    """``module`` at some prompts (N rows) with the recorded guidance, both branches with a gradient."""
    count = len(next(iter(conditioning.values())))
    return guided_denoiser(
        family,
        module,
        told_guidance(family, conditioning, scale=record.guidance_scale),
        guidance=make_guidance(family, scale=record.guidance_scale, count=count),
        autocast=autocast,
    )


def draw_chains(
    family: Family,
    module: nn.Module,
    conditioning: Conditioning,
    record: ChainRecord,
    seeds: Sequence[int],
) -> Chain:
    """A chain for each seed; its start and all its noise come from a generator of its own."""
    autocast = torch.bfloat16 if record.precision == "bf16" else None
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    denoise = recorded_denoiser(family, module, conditioning, record, autocast=autocast)
    start = start_noise(family.latent_shape(record.height, record.width), generators, family.device)
    return sample(denoise, record.sampler(family), start, generators=generators)


@torch.no_grad()
def pictures_of(family: Family, latents: Float[Tensor, "N C h w"]) -> list[Image.Image]:
    """Finished latents as pictures."""
    return [to_image(pixels) for pixels in family.decode_latents(latents).cpu()]


def is_picture_of(file: Path, drawn: Image.Image) -> bool:
    """Whether a stored picture is the one drawn again, but for rounding and lossy formats."""
    stored = open_image(file)
    if stored.size != drawn.size:
        return False
    return float((to_pixels(stored) - to_pixels(drawn)).abs().mean()) / 2 <= CLOSE


def dominant(group: Group, aspects: Sequence[str]) -> Group:
    """The row with the Pareto-dominant picture as each judgement's choice: the one chosen in some of these
    aspects, where all others are ties. A judgement without one says nothing.
    """
    judgements = []
    for judgement in group.judgements:
        found: set[Any] = {
            judgement.aspects[name].choice if judgement.aspects and name in judgement.aspects else None
            for name in aspects
        }
        winners = found - {"tie"}
        winner = winners.pop() if len(winners) == 1 else None
        choice = winner if isinstance(winner, int) else None
        judgements.append(judgement.model_copy(update={"choice": choice, "ranking": None}))
    return group.model_copy(update={"judgements": judgements})
