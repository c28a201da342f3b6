"""Rewards alone (R0, arXiv:2503.13070): a model of few steps follows several rewards near its weights.

1. Draw pictures in few steps with as much chance as a random eta allows; every step carries a gradient.
2. Each reward's gradient at the pictures is brought to the length of its weight, so that none wins by scale.
3. The pull towards the weights at the start, ‖θ − θ_0‖², is all that holds the model back.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.images.backprop import draw_last_steps
from training.tuning.images.gradient import (
    add_values,
    backward,
    drift,
    open_gradient,
    score_latents,
    step_generator,
)
from training.tuning.images.online import ImageOnline
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.schedules import ddim
from training.tuning.losses.reward_gradient import few_step_loss
from training.tuning.metrics import Means
from training.tuning.optim import make_optimizer, update
from training.tuning.rewards.compose import Scored
from training.tuning.run import Run


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config = run.config
    online = open_gradient(run, reference=True)
    policy = online.policy.denoiser
    optimizer = make_optimizer(policy.parameters(), config)
    for step in online.steps(policy, optimizer):
        means = Means()
        eta = float(torch.rand((), generator=step_generator(run, step)))
        sampler = ddim(online.schedule, eta=eta if config.random_eta else 0.0)
        for part in online.starts(step):
            latents = draw_last_steps(
                online.denoiser(policy, part.prompts),
                sampler,
                part.noise,
                generators=part.generators,
                last=sampler.steps,
                recompute=config.gradient_checkpointing,
            )
            scored = score_latents(online, part.prompts, latents)
            losses = few_step_loss(scored.parts, scales_of(online, scored, latents))
            backward(losses, part)
            add_values(means, online, scored, losses)
        away = drift(online.policy)
        (config.pull * away).backward()
        metrics = means.result() | {"drift": float(away.detach())}
        metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        online.end_step(step, metrics)

    online.publish()


def scales_of(online: ImageOnline, scored: Scored, latents: Tensor) -> Float[Tensor, "N E"]:
    """What to divide each picture's parts by, so that their gradients are as long as the rewards' weights."""
    scales = torch.ones_like(scored.parts.detach())
    if not online.run.config.normalise:
        return scales
    for column, entry in enumerate(online.rewards.entries):
        part = scored.parts[:, column].sum()
        (gradient,) = torch.autograd.grad(part, latents, retain_graph=True)
        length = gradient.flatten(1).norm(dim=1)
        scales[:, column] = torch.where(length > 0, length / abs(entry.weight), 1.0)
    return scales


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
