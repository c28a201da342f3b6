"""Denoising diffusion policy optimisation (DDPO; Black et al., arXiv:2305.13301), also of consistency models
(RLCM; Oertell et al., arXiv:2404.03673) and of a part of the chain at a time (HRF; Barceló et al.,
arXiv:2410.08315, and B2-DiffuRL; Hu et al., arXiv:2503.11240).

1. Read the prompts. Every denoising step with noise is an action with a Gaussian density: DDIM's with η, or a
   consistency model's, to a whole picture and back to the next noise level.
2. Per step: draw ``num_generations`` pictures of each prompt, some of them one way up to the window that is
   trained now, keep their chains from there, and score the pictures. The advantage compares a picture with
   the last rewards of its prompt; with ``contrast`` only the best and the worst of one way teach.
3. ``updates`` passes in ``minibatches`` over the stored chains: PPO's clipped objective of its steps.
"""

from typing import Any

import torch
from torch import Tensor

from training.tuning.config import DDPOConfig
from training.tuning.errors import BadInput
from training.tuning.images.online import Drawn, ImageOnline
from training.tuning.images.policy_gradient import backward
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.schedules import Sampler, Schedule, consistency, ddim
from training.tuning.images.windows import window_of
from training.tuning.losses.advantages import contrast_branches, remembered_advantages
from training.tuning.optim import make_optimizer, update
from training.tuning.run import Run


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config = run.config
    online = ImageOnline(run, reference=config.beta > 0)
    sampler = sampler_of(online.schedule, config)
    optimizer = make_optimizer(online.policy.denoiser.parameters(), config)
    run.memory["rewards"] = {}
    for step in online.steps(online.policy.denoiser, optimizer):
        window = window_of(step, sampler, config, seed=run.seed)
        drawn = online.draw(step, sampler, first=window.start, branches=config.branches)
        advantages = advantages_of(run, drawn)
        metrics = dict(drawn.metrics)
        for number in range(config.updates):
            key = f"{step}/{number}"
            steps = online.chosen_steps(window, key=key)
            for micros in online.minibatches(drawn, key=key):
                metrics |= backward(
                    online, sampler, micros, advantages, steps, clip=config.clip, beta=config.beta
                )
                metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        online.end_step(step, metrics)

    online.publish()


def sampler_of(schedule: Schedule, config: DDPOConfig) -> Sampler:
    """The steps that the config asks for. The last step of a consistency model adds no noise."""
    noise = config.noise or ("ddim" if schedule.skip is None else "consistency")
    if noise == "ddim":
        return ddim(schedule, eta=config.eta)
    if config.is_changed("eta"):
        raise BadInput("eta is the noise of ddim; this model draws by consistency", field="config.eta")
    if schedule.steps < 2:
        raise BadInput(
            "the last step of a consistency model is not trained: draw in two at least",
            field="config.num_inference_steps",
        )
    return consistency(schedule)


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
    advantages = torch.tensor(found, device=drawn.rewards.device).clamp(-limit, limit)
    if config.contrast is None:
        return advantages
    return contrast_branches(advantages.view(-1, config.branches), least=config.contrast).flatten()


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
