"""Centred reward distillation (CRD): rewards as a regression on the forward process.

1. Read the prompts. The old policy follows the trained one as a moving average; another average of it draws.
2. Per step: draw ``num_generations`` pictures of each prompt without noise on the way, and score them.
3. ``updates`` times: noise the pictures again. The implicit reward of a picture, by how much the policy
   denoises it better than the old one, is fitted to its reward, both less their mean over the prompt, so that
   a constant of the prompt does not matter. A pull back to the pretrained model, drawn with guidance, weighs
   more for better pictures.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.images.forward import Noised, clean_scale, noised, predict
from training.tuning.images.online import Drawn, ImageOnline
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.schedules import ddim
from training.tuning.losses.advantages import group_relative
from training.tuning.losses.forward_process import (
    adaptive_anchor,
    centred_reward_loss,
    kept_share,
    mean_square,
    optimality,
    sized_error,
)
from training.tuning.optim import make_optimizer, update
from training.tuning.run import Run


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config = run.config
    online = ImageOnline(run, reference=config.anchor > 0)
    sampler = ddim(online.schedule, eta=0.0)
    policy = online.policy
    old, drawing = policy.copy_trained(), policy.copy_trained()
    keep = {
        f"{name}.{key}": value
        for name, kept in (("old", old), ("drawing", drawing))
        for key, value in kept.items()
    }
    optimizer = make_optimizer(policy.denoiser.parameters(), config)
    for step in online.steps(policy.denoiser, optimizer, keep=keep):
        with policy.as_trained(drawing) as module:
            drawn = online.draw(step, sampler, module=module)
        metrics = dict(drawn.metrics)
        for number in range(config.updates):
            metrics |= backward(online, drawn, old, key=f"{step}/{number}")
            metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        policy.mix_trained(
            old,
            share=1
            - kept_share(
                step,
                start=config.old_start,
                rate=config.old_rate,
                delay=config.old_delay,
                most=config.old_most,
            ),
        )
        policy.mix_trained(
            drawing,
            share=1
            - kept_share(
                step, start=0.0, rate=config.drawing_rate, delay=config.drawing_delay, most=config.old_most
            ),
        )
        online.end_step(step, metrics)

    online.publish()


def backward(online: ImageOnline, drawn: Drawn, old: dict[str, Tensor], *, key: str) -> dict[str, float]:
    """Gradients of the mean loss over all pictures of a step; returns what is logged."""
    config, policy = online.run.config, online.policy
    optimal = optimality(group_relative(drawn.rewards, scale="batch"), limit=config.advantage_clip)
    mean_optimal = optimal.mean(dim=1, keepdim=True).expand_as(optimal).flatten()
    parts = list(noised(online, drawn, key=key))
    before, implicit = measure(online, parts, old)
    mean_implicit = implicit.view_as(optimal).mean(dim=1, keepdim=True).expand_as(optimal).flatten()
    optimal = optimal.flatten()
    total = {"loss": 0.0, "implicit_reward": float(implicit.mean()), "anchor": 0.0}
    for here in parts:
        rows = here.rows
        said, target = predict(online, policy.denoiser, here)
        own = before[rows] - sized_error(said, target, sizes(online, here))
        losses = centred_reward_loss(
            own,
            optimal[rows],
            mean_implicit=mean_implicit[rows],
            mean_optimal=mean_optimal[rows],
            beta=config.beta,
        ) * (config.advantage_clip / config.beta)
        if config.anchor > 0:
            with torch.no_grad(), policy.as_reference() as module:
                start, _ = predict(online, module, here, guidance=config.anchor_guidance)
            away = mean_square(said - start)
            total["anchor"] += float(away.detach().sum()) / len(optimal)
            losses = losses + adaptive_anchor(optimal[rows], weight=config.anchor) * away
        (losses.sum() / len(optimal)).backward()
        total["loss"] += float(losses.detach().sum()) / len(optimal)
    return total


@torch.no_grad()
def measure(
    online: ImageOnline, parts: Sequence[Noised], old: dict[str, Tensor]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """The old policy's error of every picture, and the implicit reward as it is now, both (N,)."""
    before, implicit = [], []
    for here in parts:
        scale = sizes(online, here)
        with online.policy.as_trained(old) as module:
            said, target = predict(online, module, here)
        before.append(sized_error(said, target, scale))
        said, _ = predict(online, online.policy.denoiser, here)
        implicit.append(before[-1] - sized_error(said, target, scale))
    return torch.cat(before), torch.cat(implicit)


def sizes(online: ImageOnline, here: Noised) -> Float[Tensor, " N"] | None:
    """The scale of x̂_0 in predictions, if errors are divided by their size."""
    if not online.run.config.normalise:
        return None
    return clean_scale(online.family, here.groups.timesteps[here.groups.owner])


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
