"""Denoising diffusion policy optimisation (Black et al., arXiv:2305.13301).

1. Read the prompts. Every denoising step with noise (DDIM with η) is an action with a Gaussian density.
2. Per step: draw ``num_generations`` pictures of each prompt, keep their chains, and score the pictures. The
   advantage compares a picture with the last rewards of its prompt.
3. ``updates`` passes in ``minibatches`` over the stored chains: PPO's clipped objective of every step.
"""

from typing import Any

import torch
from torch import Tensor

from training.tuning.images.online import Drawn, ImageOnline
from training.tuning.images.policy_gradient import backward
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.schedules import ddim
from training.tuning.losses.advantages import remembered_advantages
from training.tuning.optim import make_optimizer, update
from training.tuning.run import Run


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config = run.config
    online = ImageOnline(run, reference=config.beta > 0)
    sampler = ddim(online.schedule, eta=config.eta)
    optimizer = make_optimizer(online.policy.denoiser.parameters(), config)
    run.memory["rewards"] = {}
    for step in online.steps(online.policy.denoiser, optimizer):
        drawn = online.draw(step, sampler)
        advantages = advantages_of(run, drawn)
        metrics = dict(drawn.metrics)
        for number in range(config.updates):
            key = f"{step}/{number}"
            steps = online.chosen_steps(sampler.stochastic, key=key)
            for micros in online.minibatches(drawn, key=key):
                metrics |= backward(
                    online, sampler, micros, advantages, steps, clip=config.clip, beta=config.beta
                )
                metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        online.end_step(step, metrics)

    online.publish()


def advantages_of(run: Run, drawn: Drawn) -> Tensor:
    """Of every picture (N,), by what its prompt has earned lately."""
    config = run.config
    found = remembered_advantages(
        drawn.rewards.flatten().tolist(),
        [prompt for prompt in drawn.prompts for _ in range(drawn.rewards.shape[1])],
        run.memory["rewards"],
        size=config.history,
    )
    limit = config.advantage_clip
    return torch.tensor(found, device=drawn.rewards.device).clamp(-limit, limit)


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
