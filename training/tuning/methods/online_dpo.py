"""Online DPO (Guo et al., arXiv:2402.04792), with XPO's exploration (Xie et al., arXiv:2405.21046).

1. Read the prompts. The reference is the model as it starts.
2. Per step: two answers to each prompt, both by the policy, or the second by the reference. Rewards say which
   is preferred: the higher, or with Bradley-Terry's probability either.
3. DPO's loss on those pairs. XPO adds alpha log pi of the reference's answer, which explores.
"""

import random
from functools import partial
from typing import Any

import torch
from torch import Tensor

from training.tuning.losses.dpo import dpo_loss, ipo_loss
from training.tuning.metrics import Means, pair_metrics
from training.tuning.optim import make_optimizer, update
from training.tuning.processes import mine
from training.tuning.run import Run
from training.tuning.text.judging import open_judge
from training.tuning.text.logprobs import per_candidate
from training.tuning.text.models import Frozen, TextModel
from training.tuning.text.online import open_online
from training.tuning.text.rollouts import (
    Prompt,
    Rollout,
    Step,
    lay_out,
    make_rollout,
    preview_prompts,
    roll_out,
)
from training.tuning.throughput import Throughput

LOSSES = {"sigmoid": dpo_loss, "ipo": ipo_loss}


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config = run.config
    online = open_online(run)
    policy, frozen, judge = online.policy, online.frozen, open_judge(online)

    optimizer = make_optimizer(policy.model.parameters(), config)
    for step in online.steps(policy.model, optimizer):
        speed = Throughput()
        batch = online.prompts_of(step)
        rollouts = two_answers(run, policy, frozen, batch, step, context=online.context)
        scored = judge.score(rollouts)
        wins = first_wins(scored.total.view(-1, 2), config, seed=f"{run.seed}/labels/{step}")
        laid = lay_out(policy, frozen, rollouts, config)
        metrics = judge.metrics(scored) | laid.facts() | backward(policy, laid, wins, config)
        metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        speed.add(3 * laid.tokens)
        online.end_step(step, metrics | speed.result(), judge.measure)

    online.publish()


def two_answers(
    run: Run, policy: TextModel, frozen: Frozen, batch: list[Prompt], step: int, *, context: int
) -> list[Rollout]:
    """Two answers to each prompt; those of the reference come second."""
    key = f"{run.seed}/rollout/{step}"
    if run.config.second == "policy":
        return roll_out(policy, batch, run.config, key=key, count=2, context=context)
    own = roll_out(policy, batch, run.config, key=key, count=1, context=context)
    with frozen():
        other = roll_out(policy, batch, run.config, key=f"{key}/second", count=1, context=context)
    return [
        make_rollout(policy, mine.prompt, mine.answers + its.answers)
        for mine, its in zip(own, other, strict=True)
    ]


def first_wins(rewards: Tensor, config: Any, *, seed: str) -> Tensor:
    """(G,): 1 where the first answer is preferred, 0 where the second is, one half where nobody can say."""
    gap = rewards[:, 0] - rewards[:, 1]
    if config.labels == "best":
        return (gap.sign() + 1) / 2
    rng = random.Random(seed)
    drawn = torch.tensor([rng.random() for _ in range(len(gap))], dtype=gap.dtype, device=gap.device)
    return (drawn < torch.sigmoid(gap)).to(gap.dtype)


def pair_losses(now: Tensor, start: Tensor, target: Tensor, config: Any) -> Tensor:
    """Losses (G,) of pairs, from log-probabilities (G, 2) of policy and start: DPO's in both directions by
    ``target`` (G,), plus alpha log pi of the second answer (XPO, arXiv:2405.21046, Algorithm 1: the start's).
    """
    loss = partial(LOSSES[config.loss], beta=config.beta)
    first, second = (now - start).unbind(dim=1)
    return target * loss(first, second) + (1 - target) * loss(second, first) + config.alpha * now[:, 1]


def backward(policy: TextModel, step: Step, wins: Tensor, config: Any) -> dict[str, float]:
    """Gradients of the mean loss over a step's pairs, and what DPO logs of them."""
    means = Means()
    for micro in mine(step.micros):
        logps = policy.token_logprobs(micro.batch, temperature=config.temperature)
        now, start = (
            per_candidate(values, micro.batch.counts).view(-1, 2)
            for values in (logps, step.reference[micro.tokens])
        )
        target = wins[micro.answers.start // 2 : micro.answers.stop // 2].to(now.dtype)
        losses = pair_losses(now, start, target, config)
        (losses.sum() / len(wins)).backward()
        rewards = config.beta * (now - start).detach()
        chosen = torch.where(target[:, None] >= 0.5, rewards, rewards.flip(1))
        values = {"loss": losses} | pair_metrics(
            chosen[:, 0], chosen[:, 1], torch.maximum(target, 1 - target)
        )
        means.add(values, torch.ones_like(target))
    return means.result()


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
