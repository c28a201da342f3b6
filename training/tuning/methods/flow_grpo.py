"""Group relative policy optimisation of image models: Flow-GRPO (Liu et al., arXiv:2505.05470), DanceGRPO
(Xue et al., arXiv:2505.07818), MixGRPO (Li et al., arXiv:2507.21802) and GARDO (He et al., arXiv:2512.24138).

1. Read the prompts. A flow's ODE becomes an SDE with the same marginals, whose steps have a Gaussian density;
   a model by betas is sampled with DDIM's noise. The last step adds none: it is not trained.
2. Per step: draw ``num_generations`` pictures of each prompt, keep their chains, score the pictures, and
   compare each with the others of its prompt: the advantages.
3. ``updates`` passes over the chains' steps (a share of them, or those of a moving window, outside of which
   pictures are drawn without noise): PPO's clipped objective, and the KL divergence of each step from the
   start; with ``kl_on: uncertain`` only for pictures that the reward over-rates. The start may follow.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from training.tuning.config import FlowGRPOConfig
from training.tuning.errors import BadInput
from training.tuning.images.adversary import Adversary
from training.tuning.images.online import Drawn, ImageOnline
from training.tuning.images.policy_gradient import backward
from training.tuning.images.prompts import preview_prompts
from training.tuning.images.schedules import Sampler, Schedule, dance_grpo, ddim, flow_grpo
from training.tuning.images.windows import window_of
from training.tuning.losses.advantages import group_relative
from training.tuning.losses.gating import (
    adapted_share,
    distance_gains,
    diverse_advantages,
    doubt,
    doubtful,
)
from training.tuning.optim import make_optimizer, update
from training.tuning.run import Run

REMEMBERED = 20  # steps whose disagreement is compared with the next


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    optimise(run)


def optimise(run: Run, *, against: Callable[[ImageOnline], Adversary] | None = None) -> None:
    """The same, with a reward that learns in every step, if there is one (``adv_grpo``)."""
    config: FlowGRPOConfig = run.config
    online = ImageOnline(run, reference=config.beta > 0 and not config.moves_reference)
    whole = sampler_of(online.schedule, config)
    policy = online.policy.denoiser
    adversary = against(online) if against else None
    trained = adversary.beside(policy) if adversary else policy
    optimizer = make_optimizer(policy.parameters(), config, others=adversary.rates if adversary else [])
    anchor = online.policy.copy_trained() if config.moves_reference else None
    run.memory |= {"reset": 0, "share": config.kl_share, "doubts": []}
    for step in online.steps(trained, optimizer, keep=anchor):
        sampler = whole.only(window_of(step, whole, config, seed=run.seed))
        drawn = online.draw(step, sampler, branches=config.num_generations if config.same_start else 1)
        advantages = advantages_of(drawn, online, config)
        metrics = drawn.metrics | {"pictures/even": float((advantages == 0).float().mean())}
        if adversary:
            metrics |= adversary.learn(drawn)
            update(optimizer, config, step=step, total_steps=online.plan.total_steps)
            if not adversary.lets_learn(step):
                online.end_step(step, metrics)
                continue
        held = None
        if config.kl_on == "uncertain":
            held, metrics["pictures/uncertain"] = held_of(drawn, advantages, online)
        for number in range(config.updates):
            key = f"{step}/{number}"
            steps = online.chosen_steps(sampler.stochastic, key=key)
            for micros in online.minibatches(drawn, key=key):
                metrics |= backward(
                    online,
                    sampler,
                    micros,
                    advantages,
                    steps,
                    clip=config.clip,
                    beta=config.beta,
                    held=held,
                    anchor=anchor,
                )
                metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        if anchor is not None and is_due(step, metrics["kl"], run):
            online.policy.mix_trained(anchor, share=1.0)
            run.memory["reset"] = step
        online.end_step(step, metrics)

    online.publish()


def sampler_of(schedule: Schedule, config: FlowGRPOConfig) -> Sampler:
    """The steps with noise that the config asks for; the last one of the chain has none."""
    noise = config.noise or ("sde" if schedule.is_flow else "ddim")
    if not schedule.is_flow and noise != "ddim":
        problem = f"{noise} is the noise of a flow; this model mixes by betas: ddim, or leave it empty"
        raise BadInput(problem, field="config.noise")
    if schedule.steps < 2:
        raise BadInput(
            "the last step is not trained: draw in two at least", field="config.num_inference_steps"
        )
    level = config.noise_level
    if noise == "sde":
        found = flow_grpo(schedule, noise=0.7 if level is None else level)
    elif noise == "constant":
        found = dance_grpo(schedule, noise=0.3 if level is None else level)
    else:
        found = ddim(schedule, eta=1.0 if level is None else level)
    return found.only(range(schedule.steps - 1))


def advantages_of(drawn: Drawn, online: ImageOnline, config: FlowGRPOConfig) -> Tensor:
    """Of every picture (N,), against the others of its prompt.

    With ``per_reward`` each entry of the reward list is standardised first and then weighed, so that none
    drowns another (MixGRPO, DanceGRPO).
    """
    if config.per_reward:
        groups = drawn.rewards.shape
        found = torch.stack(
            [
                abs(entry.weight) * group_relative(part.to(drawn.rewards).view(groups), scale=config.scale)
                for entry, part in zip(online.rewards.entries, drawn.scored.parts.unbind(dim=1), strict=True)
            ]
        ).sum(dim=0)
    else:
        found = group_relative(drawn.rewards, scale=config.scale)
    if config.diversity:
        found = diverse_advantages(found, distance_gains(online.features(drawn)))
    return found.flatten().clamp(-config.advantage_clip, config.advantage_clip)


def held_of(drawn: Drawn, advantages: Tensor, online: ImageOnline) -> tuple[Tensor, float]:
    """How much the KL of every picture counts, (N,), and the share of pictures where it does at all.

    It is the mean over the uncertain pictures that is weighed by beta, however many they are.
    """
    memory, scored = online.run.memory, drawn.scored.scores.to(drawn.rewards)
    others = [
        column.view_as(drawn.rewards)
        for entry, column in zip(online.rewards.entries, scored.unbind(dim=1), strict=True)
        if entry.weight == 0
    ]
    if not others:
        problem = "uncertain needs a second opinion: entries of the reward list with the weight 0"
        raise BadInput(problem, field="config.kl_on")
    doubts = doubt(drawn.rewards, others).flatten()
    mean = float(doubts[doubts >= 0].mean()) if bool((doubts >= 0).any()) else 0.0
    memory["share"] = adapted_share(memory["share"], mean, memory["doubts"])
    memory["doubts"] = [*memory["doubts"], mean][-REMEMBERED:]
    held = (doubtful(doubts, share=memory["share"]) & (advantages != 0)).to(advantages)
    teaching = (advantages != 0).sum()
    return held * teaching / held.sum().clamp(min=1), float(held.mean())


def is_due(step: int, kl: float, run: Run) -> bool:
    """Whether the divergence is taken from the policy as it is now from the next step on."""
    config: FlowGRPOConfig = run.config
    if config.kl_reset_at is not None and kl > config.kl_reset_at:
        return True
    return config.kl_reset_every is not None and step - run.memory["reset"] >= config.kl_reset_every


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
