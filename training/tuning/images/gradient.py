"""What methods that follow a reward's gradient do around their updates, on the frame of ``online.py``.

online = open_gradient(run)
for step in online.steps(online.policy.denoiser, optimizer):
    means = Means()
    for part in online.starts(step):                          # pictures before they are drawn
        denoise = online.denoiser(online.policy.denoiser, part.prompts)
        latents = ...with a gradient (backprop.py)...
        scored = score_latents(online, part.prompts, latents)
        backward(-scored.total, part)                         # the mean over the whole step
        add_values(means, online, scored, -scored.total)
    online.end_step(step, means.result() | update(…))
online.publish()
"""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.images.online import ImageOnline, Start
from training.tuning.images.policies import POLICY, REFERENCE, ImagePolicy
from training.tuning.metrics import Means
from training.tuning.rewards.compose import Scored
from training.tuning.run import Run

Frame = TypeVar("Frame", bound=ImageOnline)


def open_gradient(run: Run, *, reference: bool = False) -> ImageOnline:
    """The frame, if all rewards have a gradient; BadInput names those that have one."""
    return with_gradient(ImageOnline(run, reference=reference))


def with_gradient(online: Frame) -> Frame:
    """The same of a frame that is open."""
    online.rewards.differentiable()
    if online.run.config.gradient_checkpointing:
        online.family.pipeline.vae.enable_gradient_checkpointing()
    return online


def score_latents(online: ImageOnline, prompts: Sequence[str], latents: Float[Tensor, "N C h w"]) -> Scored:
    """What the rewards say of clean latents, with a gradient to them.

    A picture is no brighter than white: what latents say beyond that is cut off before it is scored.
    """
    pixels = online.family.decode_latents(latents).clamp(-1, 1)
    return online.rewards.score_pixels(list(prompts), pixels)


def backward(losses: Float[Tensor, " N"], part: Start) -> None:
    """Gradients of this part's share of the mean over all pictures of a step."""
    (losses.sum() / part.total).backward()


def add_values(means: Means, online: ImageOnline, scored: Scored, losses: Float[Tensor, " N"]) -> None:
    """What is logged of every picture: its loss, its reward, and what each reward said."""
    columns = dict(zip(online.rewards.labels, scored.scores.unbind(dim=1), strict=True))
    values = {"loss": losses, "reward": scored.total}
    means.add(
        values | {f"reward/{label}": column for label, column in columns.items()},
        torch.ones_like(losses.detach()),
    )


def drift(policy: ImagePolicy) -> Float[Tensor, ""]:
    """‖θ − θ_0‖²: how far all weights, adapters multiplied out, are from where they started."""
    total = torch.zeros((), device=policy.family.device)
    if not policy.adapter:
        with policy.as_reference() as start:
            pairs = zip(policy.denoiser.parameters(), start.parameters(), strict=True)
            for now, before in pairs:
                total = total + (now - before.detach()).square().sum()
        return total
    for module in policy.denoiser.modules():
        if POLICY in getattr(module, "lora_A", {}):
            moved = module.get_delta_weight(POLICY)
            if REFERENCE in module.lora_A:
                moved = moved - module.get_delta_weight(REFERENCE).detach()
            total = total + moved.square().sum()
    return total


def step_generator(run: Run, step: int, number: int = 0) -> torch.Generator:
    """Chance of a step that all its pictures share; ``number`` tells several of a step apart."""
    digest = hashlib.sha256(f"{run.seed}/step/{step}/{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 11)


def some_steps(steps: Sequence[int], count: int | None, *, generator: torch.Generator) -> list[int]:
    """``count`` of some steps, in order; all of them if there are no more."""
    if count is None or count >= len(steps):
        return list(steps)
    chosen = torch.randperm(len(steps), generator=generator)[:count].sort().values
    return [steps[at] for at in chosen.tolist()]
