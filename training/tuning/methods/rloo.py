"""REINFORCE with a leave-one-out baseline (Ahmadian et al., arXiv:2402.14740).

1. Read the prompts. The reference is the model as it starts.
2. Per step: write ``num_generations`` answers to each prompt and score them. A whole answer is one action;
its reward is the score minus beta times its log-ratio to the reference, its baseline the others' mean.
3. ``updates`` passes over them, the ratio of a whole answer clipped; in the first the ratio is exactly one,
   and the gradient is REINFORCE's.

With ``actions: tokens`` every token is an action. Its return is what the answer earns from it on, penalties
included; the baseline stays the mean of the others' whole returns.
"""

from typing import Any

import torch
from torch import Tensor

from training.tuning.losses.advantages import leave_one_out
from training.tuning.losses.policy_gradient import clipped_surrogate
from training.tuning.optim import make_optimizer, update
from training.tuning.processes import add_up, mine
from training.tuning.run import Run
from training.tuning.text.judging import Judged, open_judge
from training.tuning.text.logprobs import per_candidate
from training.tuning.text.models import TextModel
from training.tuning.text.online import open_online
from training.tuning.text.rollouts import (
    Step,
    lay_out,
    preview_prompts,
    roll_out,
)
from training.tuning.throughput import Throughput


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config = run.config
    online = open_online(run)
    policy, frozen, judge = online.policy, online.frozen, open_judge(online)

    optimizer = make_optimizer(policy.model.parameters(), config)
    for step in online.steps(policy.model, optimizer):
        speed = Throughput()
        rollouts = roll_out(
            policy,
            online.prompts_of(step),
            config,
            key=f"{run.seed}/rollout/{step}",
            count=config.num_generations,
            context=online.context,
        )
        scored = judge.score(rollouts)
        laid = lay_out(policy, frozen, rollouts, config)
        advantages = advantages_of(scored, laid, config)
        metrics = judge.metrics(scored) | laid.facts()
        for _ in range(config.updates):
            metrics |= {"loss": backward(policy, laid, advantages, config)}
            metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        speed.add((2 + config.updates) * laid.tokens)
        online.end_step(step, metrics | speed.result(), judge.measure)

    online.publish()


def advantages_of(judged: Judged, step: Step, config: Any) -> Tensor:
    """Of every answer (N,), or of every token (C,) where tokens are the actions."""
    k = config.num_generations
    penalty = config.beta * (step.old - step.reference)
    returns = judged.total - step.sums(penalty)
    advantages = leave_one_out(returns.view(-1, k)).flatten()
    if config.actions == "answers":
        return advantages
    rewards = judged.tokens.to(penalty) - penalty
    last = step.lengths.long().cumsum(0) - 1
    rewards = rewards.index_add(0, last, judged.whole.to(rewards))
    before = torch.cat([part.cumsum(0) - part for part in rewards.split(step.lengths.long().tolist())])
    return step.spread(advantages) - before


def backward(policy: TextModel, step: Step, advantages: Tensor, config: Any) -> float:
    """Gradients of the mean loss over a step's answers; returns its value."""
    total = 0.0
    for micro in mine(step.micros):
        now, old = policy.token_logprobs(micro.batch, temperature=config.temperature), step.old[micro.tokens]
        own = advantages[micro.tokens if config.actions == "tokens" else micro.answers]
        if config.actions == "answers":
            now, old = (per_candidate(values, micro.batch.counts) for values in (now, old))
        losses = clipped_surrogate(now, old, own, low=config.clip, high=config.clip)
        loss = losses.sum() / len(step.lengths)
        loss.backward()
        total += float(loss.detach())
    return add_up({"loss": total})["loss"]


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
