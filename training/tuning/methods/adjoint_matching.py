"""Adjoint matching (arXiv:2409.08861): reward fine-tuning as stochastic optimal control.

1. Draw chains with the policy on the memoryless noise schedule: DDPM's ancestral step, by betas and in flows.
2. The lean adjoint starts as minus ``strength`` times the reward's gradient at the picture and is carried
   back through the base's steps: how the reward would change with every state.
3. Every step's mean is regressed on the base's, moved by the adjoint. Nothing is differentiated through the
   chain; the optimum is the base's distribution times exp(strength · reward).
"""

from typing import Any

import torch
from torch import Tensor

from training.tuning.images.backprop import lean_adjoints, reward_gradient
from training.tuning.images.gradient import (
    add_values,
    open_gradient,
    score_latents,
    some_steps,
    step_generator,
)
from training.tuning.images.online import ImageOnline, Start
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.schedules import Sampler, ddim
from training.tuning.images.trajectories import sample
from training.tuning.images.trajectories import step as take
from training.tuning.losses.reward_gradient import adjoint_matching_loss
from training.tuning.metrics import Means
from training.tuning.optim import make_optimizer, update
from training.tuning.run import Run

DECAY = 0.9  # of the running quantile above which losses are left out


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config = run.config
    online = open_gradient(run, reference=True)
    policy, sampler = online.policy.denoiser, ddim(online.schedule, eta=config.noise)
    optimizer = make_optimizer(policy.parameters(), config)
    limit = torch.full((), torch.inf)  # grows into a checkpoint
    for step in online.steps(policy, optimizer, keep={"limit": limit}):
        means = Means()
        generator = step_generator(run, step)
        steps = some_steps(sampler.stochastic, config.steps_trained, generator=generator)
        found = [match(online, sampler, part, steps, means, limit) for part in online.starts(step)]
        if config.drop_share:
            highest = torch.cat(found).quantile(1 - config.drop_share)
            limit.copy_(highest if limit.isinf() else DECAY * limit + (1 - DECAY) * highest)
        metrics = means.result()
        metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        online.end_step(step, metrics)

    online.publish()


def match(
    online: ImageOnline, sampler: Sampler, part: Start, steps: list[int], means: Means, limit: Tensor
) -> Tensor:
    """Gradients of one micro-batch; returns the losses of every step and picture, flat, detached."""
    config = online.run.config
    denoise = online.denoiser(online.policy.denoiser, part.prompts)
    chain = sample(denoise, sampler, part.noise, generators=part.generators)
    final = chain.final.detach().requires_grad_()
    scored = score_latents(online, part.prompts, final)
    at_end = -config.strength * reward_gradient(scored.total, final)
    with online.policy.as_reference() as base:
        told = online.denoiser(base, part.prompts)
        adjoints = lean_adjoints(told, sampler, chain, at_end, steps=steps)
        with torch.no_grad():
            targets = {index: take(told, sampler, chain.before(index), index).mean for index in steps}
    total = torch.zeros(len(part.prompts), device=final.device)
    seen = []
    for index in steps:
        mean = take(denoise, sampler, chain.before(index), index).mean
        std = float(sampler.std[index])
        losses = adjoint_matching_loss(mean, targets[index], adjoints[index], std=std)
        kept = losses.detach() <= limit.to(losses.device)
        (torch.where(kept, losses, 0.0).sum() / (part.total * len(steps))).backward()
        total += losses.detach() / len(steps)
        seen.append(losses.detach())
    add_values(means, online, scored, total)
    return torch.cat(seen).cpu()


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
