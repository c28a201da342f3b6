"""Group relative policy optimisation (Shao et al., arXiv:2402.03300) and its variants.

1. Read the prompts. The reference is the model as it starts.
2. Per step: write ``num_generations`` answers to each prompt of the batch, score them, and compare each with
   the others of its prompt: the advantages.
3. Log-probabilities before the update, of policy and reference, in the micro-batches of the update.
4. ``updates`` passes: the loss of every token, averaged as the variant says, and an update.
"""

from typing import Any

import torch
from torch import Tensor

from training.tuning.losses.advantages import (
    entropy_guided_weights,
    group_relative,
    overlong_penalty,
)
from training.tuning.losses.policy_gradient import kl_estimate
from training.tuning.optim import make_optimizer, update
from training.tuning.processes import add_up, count, mine
from training.tuning.run import Run
from training.tuning.text.judging import Judge, open_judge
from training.tuning.text.logprobs import per_candidate, token_divergence
from training.tuning.text.models import TextModel
from training.tuning.text.online import open_online
from training.tuning.text.rehearsal import rehearsals, rehearse
from training.tuning.text.rollouts import (
    Micro,
    Prompt,
    Rollout,
    Step,
    lay_out,
    preview_prompts,
    roll_out,
    some_prompts,
)
from training.tuning.text.variants import VARIANTS, Part, Variant
from training.tuning.throughput import Throughput

TOP_TOKENS = 64  # of the old policy, kept for the trust region


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config, variant = run.config, VARIANTS[run.config.loss]
    online = open_online(run)
    policy, frozen, judge = online.policy, online.frozen, open_judge(online)
    stored: dict[int, Rollout] = {}
    if config.mastered != "none":
        with frozen():
            stored = rehearsals(run, policy, judge, online.prompts, context=online.context)

    optimizer = make_optimizer(policy.model.parameters(), config)
    for step in online.steps(policy.model, optimizer):
        speed = Throughput()
        chosen = online.rows_of(step)
        batch = [online.prompts[index] for index in chosen if index not in stored]
        rollouts, rewards, judged = sample_groups(
            run, policy, judge, batch, online.prompts, step, context=online.context
        )
        metrics: dict[str, float] = {}
        if rollouts:
            keep_top = TOP_TOKENS if config.loss == "troll" else 0
            # A single pass, of one process, computes the old log-probabilities as it goes; others need them
            # before.
            with_old = config.updates > 1 or config.kl == "k1" or keep_top > 0 or count() > 1
            laid = lay_out(policy, frozen, rollouts, config, with_old=with_old, keep_top=keep_top)
            metrics = judged | {"answers/even": share_even(rewards)}
            speed.add(laid.tokens)
        old = [stored[index] for index in chosen if index in stored]
        rehearsed = lay_out(policy, frozen, old, config) if old else None
        for _ in range(config.updates):
            if rollouts:
                metrics |= backward(policy, laid, rewards, config, variant, with_old=with_old)
                speed.add(laid.tokens)
            if rehearsed is not None:
                metrics |= rehearse(policy, rehearsed, config)
            metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        metrics |= laid.facts() if rollouts else {}
        online.end_step(step, metrics | speed.result(), judge.measure)

    online.publish()


def sample_groups(
    run: Run,
    policy: TextModel,
    judge: Judge,
    batch: list[Prompt],
    prompts: list[Prompt],
    step: int,
    *,
    context: int,
) -> tuple[list[Rollout], Tensor, dict[str, float]]:
    """Rollouts of a step, their rewards (G, k), and what to log of all that was sampled first. With
    ``resample``, groups whose answers all score the same are replaced by other prompts', that often at most.
    """
    config = run.config
    rollouts: list[Rollout] = []
    rewards: list[Tensor] = []
    judged: dict[str, float] = {}
    for attempt in range(config.resample + 1):
        missing = (
            batch
            if attempt == 0
            else some_prompts(
                prompts, len(batch) - len(rollouts), seed=f"{run.seed}/resample/{step}/{attempt}"
            )
        )
        if not missing:
            break
        run.check_stop()
        key = f"{run.seed}/rollout/{step}/{attempt}"
        found = roll_out(policy, missing, config, key=key, count=config.num_generations, context=context)
        scored = judge.score(found)
        scores, judged = scored.total, judged or judge.metrics(scored)
        if config.overlong_buffer:
            lengths = torch.tensor([float(len(one.ids)) for rollout in found for one in rollout.answers])
            scores = scores + overlong_penalty(
                lengths.to(scores), longest=config.max_new_tokens, buffer=config.overlong_buffer
            )
        for rollout, own in zip(found, scores.view(len(found), -1), strict=True):
            if attempt == config.resample or float(own.max() - own.min()) > 0:
                rollouts.append(rollout)
                rewards.append(own)
    return rollouts, torch.stack(rewards) if rewards else torch.empty(0), judged


def backward(
    policy: TextModel, step: Step, rewards: Tensor, config: Any, variant: Variant, *, with_old: bool
) -> dict[str, float]:
    """One pass over a step's rollouts: gradients of the mean loss. Returns its value and what was clipped.

    Without ``with_old`` the pass is the first and only one, and notes the old log-probabilities in ``step``.
    """
    if config.kl == "k1":
        rewards = rewards - config.beta * step.sums(step.old - step.reference).view_as(rewards)
    advantages = group_relative(rewards, scale=variant.scale).flatten()
    right = rewards > 0.5
    success = right.float().mean(dim=1, keepdim=True).expand_as(rewards).flatten()
    low = config.clip or variant.low
    high = config.clip_high or config.clip or variant.high
    total = clipped = 0.0
    for micro in mine(step.micros):
        states = policy.answer_states(micro.batch)
        logps = policy.token_logprobs(micro.batch, states, temperature=config.temperature)
        if not with_old:
            step.old[micro.tokens] = logps.detach()
        part = Part(
            policy=policy,
            batch=micro.batch,
            states=states,
            logps=logps,
            old=step.old[micro.tokens],
            advantages=advantages[micro.answers],
            right=right.flatten()[micro.answers],
            success=success[micro.answers],
            top=None if step.top is None else (step.top[0][micro.tokens], step.top[1][micro.tokens]),
        )
        losses = variant.loss(part, config, low, high)
        if config.entropy_weight is not None:
            losses = losses * part.spread(answer_weights(part, config))
        if config.kl != "k1" and config.beta:
            losses = losses + config.beta * kl_estimate(logps, step.reference[micro.tokens], kind=config.kl)
        loss = (losses * token_weights(step, micro, variant, config)).sum()
        loss.backward()
        total += float(loss.detach())
        moved = (logps.detach() - part.old).exp()
        clipped += float(((moved < 1 - low) | (moved > 1 + high)).sum())
    return add_up({"loss": total, "clip_share": clipped / len(step.old)})


@torch.no_grad()
def answer_weights(part: Part, config: Any) -> Tensor:
    """Weights of the answers of a micro-batch (N,), by their advantages and the policy's entropy in them."""
    head = part.policy.lm_head
    own = (part.states / config.temperature, head.weight, head.bias)
    entropies = token_divergence(own, own, negative_log_mean, dtype=part.policy.dtype)
    means = per_candidate(entropies, part.batch.counts) / part.lengths
    groups = (-1, config.num_generations)
    return entropy_guided_weights(
        part.advantages.view(groups),
        means.to(part.advantages).view(groups),
        alpha=config.entropy_weight,
        temperature=config.entropy_temperature,
    ).flatten()


def negative_log_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Entropy of p (C,), if q is p."""
    return -(log_p.exp() * log_q).sum(dim=1)


def token_weights(step: Step, micro: Micro, variant: Variant, config: Any) -> Tensor:
    """What each token's loss (C,) is multiplied by, so that the sum over a whole step is the mean wanted."""
    answers = len(step.lengths)
    if variant.mean == "tokens":
        return torch.full_like(step.old[micro.tokens], 1 / len(step.old))
    if variant.mean == "constant":
        return torch.full_like(step.old[micro.tokens], 1 / (answers * config.max_new_tokens))
    return step.spread(1 / (answers * step.lengths))[micro.tokens]


def share_even(rewards: Tensor) -> float:
    """Share of prompts whose answers all scored the same: they teach nothing."""
    return float((rewards.max(dim=1).values == rewards.min(dim=1).values).float().mean())


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
