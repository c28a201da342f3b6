"""What an image run does before its first step: choose groups, encode them, and ask the reference."""

import logging
import math
import shutil
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from statistics import NormalDist
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.tuning.config import ImageDirectConfig, ImageTrainConfig, TimestepKeys
from training.tuning.data import Group
from training.tuning.errors import BadInput
from training.tuning.images.batches import DrawSettings, PreparedGroups
from training.tuning.images.errors import denoising_errors
from training.tuning.images.families import Family
from training.tuning.images.families.noise import FlowNoise
from training.tuning.images.groups import (
    Choose,
    Framing,
    ImageGroup,
    Limits,
    count_reasons,
    select_groups,
)
from training.tuning.images.policies import ImagePolicy
from training.tuning.run import Run

logger = logging.getLogger("training.tuning")
QUANTILES = 10_000  # entries of a table of timesteps that are not equally likely
ReferenceErrors = dict[tuple[int, int], Float[Tensor, " N"]]


def choose_groups(
    run: Run, family: Family, groups: list[Group], choose: Choose, *, part: str
) -> tuple[list[ImageGroup], list[str | None]]:
    """The groups that ``choose`` finds a use for, and for every row the reason if it cannot be used."""
    config: ImageDirectConfig = run.config
    longest = family.reader[1]
    return select_groups(
        groups,
        part=part,
        media=run.dir.media,
        choose=choose,
        limits=Limits(min(longest, config.max_length or longest), family.count_tokens),
        framing=Framing(config.resolution, config.random_crop, family.pixel_multiple, run.seed),
    )


def usable_groups(
    run: Run, family: Family, groups: list[Group], choose: Choose, *, part: str
) -> list[ImageGroup]:
    """The groups that can be trained on; the log says why others cannot."""
    kept, reasons = choose_groups(run, family, groups, choose, part=part)
    for reason, count in count_reasons(reasons).items():
        logger.info("%s data: %d rows dropped: %s", part, count, reason)
    return kept


def prepare_groups(
    run: Run,
    family: Family,
    groups: list[ImageGroup],
    *,
    part: str,
    people: dict[str, Tensor] | None = None,
) -> PreparedGroups:
    """The groups, encoded. Latents and embeddings stay in the run's folder ``cache``. Held-out pictures are
    never mirrored, nor are their prompts left out. ``people``: whom the denoiser is told of, by name.
    """
    config: ImageDirectConfig = run.config
    draws = DrawSettings(
        seed=run.seed,
        timesteps=timestep_table(config, family.train_timesteps),
        flip=config.random_flip and part == "train",
        caption_dropout=config.caption_dropout if part == "train" else 0.0,
    )
    return PreparedGroups(
        groups,
        family,
        draws=draws,
        folder=run.dir.path / "cache",
        on_batch=run.check_stop,
        people=people,
    )


def timestep_table(config: TimestepKeys, count: int) -> Sequence[int]:
    """The timesteps of 0..count-1 that training draws from, each entry with the same probability."""
    if config.timesteps is not None:
        if max(config.timesteps) >= count:
            problem = f"the model's timesteps end at {count - 1}"
            raise BadInput(problem, field="config.timesteps")
        return config.timesteps
    first = int(config.timestep_low * count)
    last = max(first + 1, round(config.timestep_high * count))
    if config.timestep_sampling == "uniform":
        return range(first, last)
    places = [int(count * _logit_normal((entry + 0.5) / QUANTILES)) for entry in range(QUANTILES)]
    return [place for place in places if first <= place < last]


def _logit_normal(quantile: float) -> float:
    """σ(Φ⁻¹(quantile)): logit-normal with location 0 and scale 1 (arXiv:2403.03206, Sec. 3.1)."""
    return 1 / (1 + math.exp(-NormalDist().inv_cdf(quantile)))


def betas(config: Any, family: Family, timesteps: Int[Tensor, " G"]) -> Float[Tensor, " G"]:
    """The strength of the reference's pull at these timesteps, (G,), as ``beta_schedule`` says.

    flow: β (1 − t)², as Flow-DPO is derived (arXiv:2501.13918).
    """
    constant = torch.full(timesteps.shape, config.beta, device=timesteps.device)
    if config.beta_schedule == "constant":
        return constant
    if not isinstance(family.noise, FlowNoise):
        problem = "flow is for flow models; this model mixes noise by betas"
        raise BadInput(problem, field="config.beta_schedule")
    return constant * (1 - family.noise.read(timesteps).to(timesteps.device) / family.noise.scale).square()


def reference_errors(
    run: Run,
    policy: ImagePolicy,
    groups: PreparedGroups,
    asked: Iterable[tuple[tuple[int, int], list[int], int]],
    *,
    part: str,
) -> ReferenceErrors:
    """The reference's errors in the given micro-batches, float32, computed once and kept on disk.

    ``asked`` gives (key, groups, draw); a key that comes again is not asked again. Must be called before the
    policy is trained or restored: for full fine-tuning the policy itself is the reference until then.
    """
    file = run.dir.path / "cache" / f"reference-{part}-{run.fingerprint[:16]}.safetensors"
    if not file.exists():
        found: ReferenceErrors = {}
        live = policy.as_reference() if policy.has_live_reference else nullcontext(policy.denoiser)
        with torch.no_grad(), live as denoiser:
            for key, indices, draw in asked:
                if key in found:
                    continue
                run.check_stop()
                batch = groups.batch(indices, epoch=draw)
                found[key] = denoising_errors(
                    policy.family, denoiser, batch, autocast=autocast(run.config)
                ).cpu()
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".part")
        save_file({f"{first}-{second}": value for (first, second), value in found.items()}, partial)
        partial.replace(file)
    saved = load_file(file)
    return {(int(first), int(second)): saved[name] for name in saved for first, second in [name.split("-")]}


def remove_cache(run: Run) -> None:
    """Free the disk once the result is there; until then a resumed run needs the cache."""
    shutil.rmtree(run.dir.path / "cache")


def autocast(config: ImageTrainConfig) -> torch.dtype | None:
    """The type that the denoiser computes in, or None for that of its weights, float32."""
    return torch.bfloat16 if config.precision == "bf16" else None
