"""Value-based reinforcement (VARD, arXiv:2505.15791): any reward, made differentiable by a learned value.

1. Draw chains with the policy and score the pictures.
2. Regress the rewards on the noisy states of the chains: V(x_t, prompt, t) = E[r(x_0) | x_t].
3. At every step the gradient goes from the value of the next state through that one step to the policy; the
   distance of its predictions to the base's holds it back.
"""

from typing import Any

import torch
from torch import Tensor, nn

from training.tuning.images.gradient import some_steps, step_generator
from training.tuning.images.online import Drawn, ImageOnline, Micro
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.schedules import Sampler, ddim
from training.tuning.images.trajectories import step as take
from training.tuning.images.values import LatentValue
from training.tuning.losses.reward_gradient import value_loss
from training.tuning.metrics import Means
from training.tuning.optim import make_optimizer, update
from training.tuning.run import Run


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config = run.config
    online = ImageOnline(run, reference=True)
    policy, sampler = online.policy.denoiser, ddim(online.schedule, eta=config.eta)
    value = open_value(online)
    optimizer = make_optimizer(
        policy.parameters(), config, others=[(value.parameters(), config.value_learning_rate)]
    )
    trained = nn.ModuleDict({"policy": policy, "value": value})
    for step in online.steps(trained, optimizer):
        drawn, means = online.draw(step, sampler), Means()
        total = online.plan.total_steps
        for number in range(config.value_updates):
            steps = some_steps(
                range(sampler.steps), config.steps_trained, generator=step_generator(run, step, number)
            )
            fit(online, value, drawn, steps, means)
            metrics = update(optimizer, config, step=step, total_steps=total)
        if step > config.value_warmup:
            steps = some_steps(sampler.stochastic, config.steps_trained, generator=step_generator(run, step))
            value.requires_grad_(False)
            for micro in drawn.micros:
                follow(online, value, sampler, micro, steps, drawn, means)
            value.requires_grad_(True)
            metrics = update(optimizer, config, step=step, total_steps=total)
        online.end_step(step, drawn.metrics | means.result() | metrics)

    online.publish()


def open_value(online: ImageOnline) -> LatentValue:
    """A fresh value network, the same for the same seed."""
    shape = online.family.latent_shape(online.height, online.width)
    features = online.encoded.rows([online.prompts[0]])["embeddings"].shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(online.run.seed)
        return LatentValue(channels=shape[0], features=features).to(online.family.device)


def fit(online: ImageOnline, value: LatentValue, drawn: Drawn, steps: list[int], means: Means) -> None:
    """Gradients of the mean squared error of the value on the states before some steps."""
    rewards = drawn.rewards.flatten()
    for micro in drawn.micros:
        told, goal = online.encoded.rows(micro.prompts), rewards[micro.rows]
        for index in steps:
            seen = value(micro.chain.before(index), told, float(online.schedule.sigmas[index]))
            losses = (seen - goal).square()
            (losses.sum() / (len(rewards) * len(steps))).backward()
            means.add({"value_loss": losses}, torch.ones_like(goal))


def follow(
    online: ImageOnline,
    value: LatentValue,
    sampler: Sampler,
    micro: Micro,
    steps: list[int],
    drawn: Drawn,
    means: Means,
) -> None:
    """Gradients of the policy on one micro-batch: each step from its recorded state and noise."""
    denoise = online.denoiser(online.policy.denoiser, micro.prompts)
    told = online.encoded.rows(micro.prompts)
    for index in steps:
        before = micro.chain.before(index)
        proposal = take(denoise, sampler, before, index)
        with torch.no_grad(), online.policy.as_reference() as base:
            start = take(online.denoiser(base, micro.prompts), sampler, before, index).noise
        following = proposal.draw(micro.chain.noises[index])
        worth: Tensor = value(following, told, float(online.schedule.sigmas[index + 1]))
        losses = value_loss(worth, proposal.noise, start, pull=online.run.config.pull)
        (losses.sum() / (drawn.rewards.numel() * len(steps))).backward()
        means.add({"loss": losses, "value": worth}, torch.ones_like(worth.detach()))


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
