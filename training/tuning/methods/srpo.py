"""Direct-Align with semantic relative preference (SRPO, arXiv:2509.06942).

1. Draw pictures without a gradient, and remember the noise that each started from.
2. Mix a picture with its own noise at a level of the schedule, and let the policy take one step from there.
   The noise is known, so that the picture can be read off again: where the policy is right it is unchanged,
   and its reward depends on that one step alone, at any level.
3. The reward is relative: (1 + k) for the prompt with wanted words, minus that with unwanted ones. Every
   other step goes towards noise instead (inversion), with the words exchanged.
"""

from typing import Any

import torch
from torch import Tensor

from training.tuning.errors import BadInput
from training.tuning.images.backprop import align_directly
from training.tuning.images.gradient import add_values, backward, open_gradient, score_latents, step_generator
from training.tuning.images.online import ImageOnline, Start
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.schedules import Schedule, ddim
from training.tuning.images.trajectories import sample
from training.tuning.losses.reward_gradient import refl_loss, relative_reward
from training.tuning.metrics import Means
from training.tuning.optim import make_optimizer, update
from training.tuning.rewards.compose import Scored
from training.tuning.run import Run


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config = run.config
    online = open_gradient(run)
    policy, sampler = online.policy.denoiser, ddim(online.schedule, eta=0.0)
    levels = trained_levels(online.schedule, most_noise=config.most_noise)
    optimizer = make_optimizer(policy.parameters(), config)
    for step in online.steps(policy, optimizer):
        means = Means()
        inverted = bool(config.wanted) and config.inversion and step % 2 == 0
        level, to = neighbours(levels, inverted=inverted, generator=step_generator(run, step))
        strength = strength_at(run, step, online.plan.total_steps)
        for part in online.starts(step):
            denoise = online.denoiser(policy, part.prompts)
            clean = sample(denoise, sampler, part.noise, generators=part.generators).final
            latents = align_directly(denoise, online.schedule, clean, part.noise, level=level, to=to)
            rewards, scored = relative(online, part, latents, strength=strength, inverted=inverted)
            losses = -rewards if config.goal is None else refl_loss(rewards, goal=config.goal)
            backward(losses, part)
            add_values(means, online, scored, losses)
        metrics = means.result() | {"noise_level": float(online.schedule.sigmas[level])}
        metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        online.end_step(step, metrics)

    online.publish()


def relative(
    online: ImageOnline, part: Start, latents: Tensor, *, strength: float, inverted: bool
) -> tuple[Tensor, Scored]:
    """The relative rewards (N,), and what the rewards say for the words that count as wanted."""
    config = online.run.config
    if not config.wanted:
        scored = score_latents(online, part.prompts, latents)
        return scored.total, scored
    words = (config.unwanted, config.wanted) if inverted else (config.wanted, config.unwanted)
    wanted, unwanted = (
        score_latents(online, [f"{one} {prompt}" for prompt in part.prompts], latents) for one in words
    )
    return relative_reward(wanted.total, unwanted.total, strength=strength), wanted


def trained_levels(schedule: Schedule, *, most_noise: float) -> list[int]:
    """The levels, but the last, with no more noise than that; at least two. BadInput if there are fewer."""
    found = [level for level in range(schedule.steps) if float(schedule.sigmas[level]) <= most_noise]
    if len(found) < 2:
        problem = "leaves fewer than two noise levels; raise it, or take more sampling steps"
        raise BadInput(problem, field="config.most_noise")
    return found


def neighbours(levels: list[int], *, inverted: bool, generator: torch.Generator) -> tuple[int, int]:
    """A level, and the next less noisy one; inverted, the other way round."""
    at = int(torch.randint(len(levels) - 1, (), generator=generator))
    pair = levels[at], levels[at + 1]
    return pair[::-1] if inverted else pair


def strength_at(run: Run, step: int, total_steps: int) -> float:
    """k, linear from the first step to the last."""
    config = run.config
    share = (step - 1) / max(1, total_steps - 1)
    return float(config.strength + share * (config.strength_end - config.strength))


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
