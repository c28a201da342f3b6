"""Pictures that were just drawn, noised again, for methods that learn on the forward process."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from training.tuning.images.errors import NoisyGroups, draw_for_group, predictions
from training.tuning.images.families import Family
from training.tuning.images.families.noise import BetaNoise, FlowNoise
from training.tuning.images.online import Drawn, ImageOnline
from training.tuning.images.preparation import autocast, timestep_table


@dataclass(frozen=True)
class Noised:
    """Pictures ``rows`` of a step's, at a noise and a timestep that the pictures of a prompt share."""

    rows: slice
    groups: NoisyGroups


def noised(online: ImageOnline, drawn: Drawn, *, key: str) -> Iterator[Noised]:
    """The pictures of a step, micro-batch by micro-batch, with noise that ``key`` decides."""
    config, family = online.run.config, online.family
    count = drawn.rewards.shape[1]
    latents = drawn.latents
    table = timestep_table(config, family.train_timesteps)
    draws = [
        draw_for_group(
            seed=online.run.seed,
            group=f"{key}/{number}/{prompt}",
            epoch=0,
            shape=latents.shape[1:],
            timesteps=table,
            flip=False,
            caption_dropout=0.0,
        )
        for number, prompt in enumerate(drawn.prompts)
    ]
    conditioning = online.encoded.rows(drawn.prompts)
    noise = torch.stack([draw.noise for draw in draws]).to(latents.device)
    timesteps = torch.tensor([draw.timestep for draw in draws], device=latents.device)
    for start in range(0, len(latents), online.micro_size):
        rows = slice(start, min(start + online.micro_size, len(latents)))
        owner = torch.arange(rows.start, rows.stop, device=latents.device) // count
        yield Noised(rows, NoisyGroups(latents[rows], owner, noise, timesteps, conditioning))


def predict(
    online: ImageOnline, module: nn.Module, here: Noised, *, guidance: float = 1.0
) -> tuple[Tensor, Tensor]:
    """What ``module`` predicts for pictures, and what it should, float32; with guidance u + w (c - u)."""
    config, groups = online.run.config, here.groups
    told, target = predictions(online.family, module, groups, autocast=autocast(config))
    if guidance == 1 or online.family.reads_guidance:
        return told, target
    empty = online.encoded.without([""] * len(groups.timesteps))
    without, _ = predictions(
        online.family,
        module,
        NoisyGroups(groups.latents, groups.owner, groups.noise, groups.timesteps, empty),
        autocast=autocast(config),
    )
    return without + guidance * (told - without), target


def clean_scale(family: Family, timesteps: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """|dx̂_0 / dprediction|, (N,): t on a flow (x̂_0 = x_t - t v); by betas σ / α of ε, σ of v, 1 of x_0."""
    noise = family.noise
    if isinstance(noise, FlowNoise):
        return noise.read(timesteps) / noise.scale
    assert isinstance(noise, BetaNoise)
    square = noise.schedule.alphas_cumprod.to(timesteps.device)[timesteps]
    kind = noise.schedule.config.prediction_type
    if kind == "epsilon":
        return ((1 - square) / square).sqrt()
    return (1 - square).sqrt() if kind == "v_prediction" else torch.ones_like(square)
