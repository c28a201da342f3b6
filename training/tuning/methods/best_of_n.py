"""Fine-tuning on the best of the policy's own answers: RAFT (Dong et al., arXiv:2304.06767).

1. Read the prompts.
2. Per step: the current policy writes ``num_generations`` answers to each prompt; rewards rank them.
3. Keep the best answer of each prompt, or the best share of all of the step's, and imitate them. Nothing
   depends on the rewards but their order.
"""

from typing import Any

import torch
from torch import Tensor

from training.tuning.losses.sft import sft_loss
from training.tuning.optim import make_optimizer, update
from training.tuning.processes import add_up, mine
from training.tuning.rewards.selection import best_of, best_share
from training.tuning.run import Run
from training.tuning.text.judging import open_judge
from training.tuning.text.models import TextModel
from training.tuning.text.online import open_online
from training.tuning.text.rollouts import (
    Rollout,
    Step,
    lay_out,
    make_rollout,
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
        ranked = scored.total
        if config.beta:
            laid = lay_out(policy, frozen, rollouts, config)
            ranked = ranked - config.beta * laid.sums(laid.old - laid.reference)
        scores = ranked.view(len(rollouts), -1)
        kept = choose(scores.tolist(), config)
        best = lay_out(policy, frozen, [only(policy, rollouts[row], which) for row, which in kept], config)
        metrics = judge.metrics(scored) | best.facts()
        metrics["reward/kept"] = float(torch.stack([scores[row, which] for row, which in kept]).mean())
        metrics["loss"] = backward(policy, best, config)
        metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        speed.add(3 * best.tokens)
        online.end_step(step, metrics | speed.result(), judge.measure)

    online.publish()


def choose(scores: list[list[float]], config: Any) -> list[tuple[int, int]]:
    """(prompt, answer) of what is imitated."""
    if config.keep == "share":
        return best_share(scores, config.share)
    return [(row, best_of(own)) for row, own in enumerate(scores)]


def only(policy: TextModel, rollout: Rollout, which: int) -> Rollout:
    """The rollout with one of its answers."""
    return make_rollout(policy, rollout.prompt, [rollout.answers[which]])


def backward(policy: TextModel, step: Step, config: Any) -> float:
    """Gradients of the mean of minus log pi over the tokens of the kept answers; returns its value."""
    total = 0.0
    for micro in mine(step.micros):
        logps = policy.token_logprobs(micro.batch, temperature=config.temperature)
        loss: Tensor = sft_loss(logps).sum() / len(step.old)
        loss.backward()
        total += float(loss.detach())
    return add_up({"loss": total})["loss"]


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
