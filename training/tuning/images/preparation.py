"""What an image run does before its first step: choose groups, encode them, and ask the reference."""

import logging
import shutil
from collections.abc import Iterable
from contextlib import nullcontext

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.tuning.config import DiffusionDPOConfig
from training.tuning.data import Group
from training.tuning.images.batches import DrawSettings, PreparedGroups
from training.tuning.images.errors import denoising_errors
from training.tuning.images.families import Family
from training.tuning.images.groups import Framing, ImageGroup, Limits, count_reasons, select_groups
from training.tuning.images.policies import ImagePolicy
from training.tuning.run import Run

logger = logging.getLogger("training.tuning")
ReferenceErrors = dict[tuple[int, int], Float[Tensor, " N"]]


def choose_groups(
    run: Run, family: Family, groups: list[Group], *, part: str
) -> tuple[list[ImageGroup], list[str | None]]:
    """The groups that Diffusion-DPO can train on, and for every row the reason if it cannot."""
    config: DiffusionDPOConfig = run.config
    longest = family.reader[1]
    return select_groups(
        groups,
        part=part,
        media=run.dir.media,
        keys=config,
        limits=Limits(min(longest, config.max_length or longest), family.count_tokens),
        framing=Framing(config.resolution, config.random_crop, family.pixel_multiple, run.seed),
    )


def prepare_groups(run: Run, family: Family, groups: list[Group], *, part: str) -> PreparedGroups:
    """The groups that can be trained on, encoded. Latents and embeddings stay in the run's folder
    ``cache``.
    """
    config: DiffusionDPOConfig = run.config
    kept, reasons = choose_groups(run, family, groups, part=part)
    for reason, count in count_reasons(reasons).items():
        logger.info("%s data: %d rows dropped: %s", part, count, reason)
    first = int(config.timestep_low * family.train_timesteps)
    last = max(first + 1, round(config.timestep_high * family.train_timesteps))
    draws = DrawSettings(
        seed=run.seed,
        timesteps=range(first, last),
        flip=config.random_flip and part == "train",
        caption_dropout=config.caption_dropout if part == "train" else 0.0,
    )
    return PreparedGroups(kept, family, draws=draws, folder=run.dir.path / "cache", on_batch=run.check_stop)


def reference_errors(
    run: Run,
    policy: ImagePolicy,
    groups: PreparedGroups,
    asked: Iterable[tuple[tuple[int, int], list[int], int]],
    *,
    part: str,
) -> ReferenceErrors:
    """The reference's errors in the given micro-batches, float32, computed once and kept on disk.

    ``asked`` gives (key, groups, epoch). Must be called before the policy is trained or restored:
    for full fine-tuning the policy itself is the reference until then.
    """
    file = run.dir.path / "cache" / f"reference-{part}-{run.fingerprint[:16]}.safetensors"
    if not file.exists():
        found: ReferenceErrors = {}
        live = policy.as_reference() if policy.has_live_reference else nullcontext(policy.denoiser)
        with torch.no_grad(), live as denoiser:
            for key, indices, epoch in asked:
                run.check_stop()
                batch = groups.batch(indices, epoch=epoch)
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


def autocast(config: DiffusionDPOConfig) -> torch.dtype | None:
    """The type that the denoiser computes in, or None for that of its weights, float32."""
    return torch.bfloat16 if config.precision == "bf16" else None
