"""Denoising errors: how well a model removes a given noise from a given image.

One group is one prompt with one noise and one timestep for all its candidates: whatever differs
between two errors of a group is then due to the images alone.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from training.tuning.images.families import Conditioning, Family


@dataclass(frozen=True)
class Draw:
    """What chance decides for one group in one epoch; all candidates of the group share it.

    noise: (C, h, w), float32. timestep: of the training schedule. flip: mirror the images.
    drop_caption: train without the prompt. Depends on nothing but the seed, the group and the
    epoch: the same in every batch layout, in the policy and in the reference.
    """

    noise: Float[Tensor, "C h w"]
    timestep: int
    flip: bool
    drop_caption: bool


def draw_for_group(
    *,
    seed: int,
    group: str,
    epoch: int,
    shape: Sequence[int],
    timesteps: Sequence[int],
    flip: bool,
    caption_dropout: float,
) -> Draw:
    """Draw noise (of ``shape``), a timestep (one of ``timesteps``), flip and caption dropout.

    ``group`` names the group, say by the line it has in its file. With ``flip`` half of the draws
    are mirrored.
    """
    digest = hashlib.sha256(f"{seed}\0{group}\0{epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 11)
    noise = torch.randn(tuple(shape), generator=generator)
    where, mirrored, dropped = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    return Draw(
        noise=noise,
        timestep=timesteps[int(where * len(timesteps))],
        flip=flip and mirrored < 0.5,
        drop_caption=dropped < caption_dropout,
    )


@dataclass(frozen=True)
class NoisyGroups:
    """A micro-batch of G groups with N candidates in all, ready for the denoiser.

    latents: (N, C, h, w), clean. owner: (N,), the group of each candidate. noise: (G, C, h, w).
    timesteps: (G,). conditioning: what
    the denoiser is told about the prompts, tensors of G rows.
    """

    latents: Float[Tensor, "N C h w"]
    owner: Int[Tensor, " N"]
    noise: Float[Tensor, "G C h w"]
    timesteps: Int[Tensor, " G"]
    conditioning: Conditioning


def predictions(
    family: Family, denoiser: nn.Module, batch: NoisyGroups, *, autocast: torch.dtype | None = None
) -> tuple[Float[Tensor, "N C h w"], Float[Tensor, "N C h w"]]:
    """What the denoiser says of each noised candidate, and what it should say, float32.

    The target follows the family: the noise, the velocity or the clean latent. ``autocast`` is the type the
    denoiser computes in, or None for that of its weights; noising and target are float32 either way.
    """
    noise, timesteps = batch.noise[batch.owner], batch.timesteps[batch.owner]
    conditioning = {name: value[batch.owner] for name, value in batch.conditioning.items()}
    noisy = family.add_noise(batch.latents, noise, timesteps)
    with torch.autocast(noisy.device.type, dtype=autocast, enabled=autocast is not None):
        prediction = family.predict(denoiser, noisy, timesteps, conditioning)
    return prediction.float(), family.target(batch.latents, noise, timesteps)


def denoising_errors(
    family: Family, denoiser: nn.Module, batch: NoisyGroups, *, autocast: torch.dtype | None = None
) -> Float[Tensor, " N"]:
    """``mean((prediction - target)²)`` of each candidate, (N,), float32; Eq. 14 of arXiv:2311.12908.

    In float32 whatever ``autocast`` says, since losses multiply differences of errors by thousands.
    """
    prediction, target = predictions(family, denoiser, batch, autocast=autocast)
    return (prediction - target).square().flatten(1).mean(dim=1)
