"""Proximal policy optimisation (Schulman et al., arXiv:1707.06347) for language models, as in Stiennon et al.
(arXiv:2009.01325) and Ziegler et al. (arXiv:1909.08593).

1. Read the prompts. The reference is the model as it starts. A linear head on the policy's states, zero at
   first, gives a value to the state before every token.
2. Per step: an answer to each prompt. Its score is the reward of its last token, unless the rewards credit
   single tokens; every token pays beta times its divergence from the reference. Generalised advantages of
   those rewards, whitened.
3. ``updates`` passes in ``minibatches``: the clipped objective of every token and the clipped error of its
   value, both means over tokens. With a KL target, beta is steered after the step.

The loss ``apa`` (Zhu et al., arXiv:2306.02231) regresses log-ratios on advantages instead; its rewards have
no KL term.
"""

import random
from typing import Any

import torch
from torch import Tensor, nn

from training.tuning.losses.advantages import adapted_kl_weight, generalised_advantages, whitened
from training.tuning.losses.policy_gradient import (
    advantage_regression,
    clipped_surrogate,
    clipped_value_loss,
)
from training.tuning.optim import make_optimizer, update
from training.tuning.processes import add_up, mine, shared
from training.tuning.run import Run
from training.tuning.text.judging import open_judge
from training.tuning.text.models import TextModel
from training.tuning.text.online import open_online
from training.tuning.text.rollouts import (
    Micro,
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
    value = value_head(policy)

    optimizer = make_optimizer(
        policy.model.parameters(), config, others=[(value.parameters(), config.value_learning_rate)]
    )
    trained = nn.ModuleDict({"policy": policy.model, "value": value})
    run.memory["beta"] = config.beta
    for step in online.steps(trained, optimizer):
        speed = Throughput()
        batch = online.prompts_of(step)
        key = f"{run.seed}/rollout/{step}"
        rollouts = roll_out(policy, batch, config, key=key, count=1, context=online.context)
        scored = judge.score(rollouts)
        laid = lay_out(policy, frozen, rollouts, config, with_kl=config.kl == "full")
        beta = run.memory["beta"]
        values = values_of(policy, value, laid)
        penalty = 0.0 if config.loss == "apa" else beta
        rewards = token_rewards(scored.whole, scored.tokens, laid, beta=penalty, config=config)
        advantages, returns = advantages_of(rewards, values, laid, config)
        metrics = judge.metrics(scored) | laid.facts() | {"beta": beta}
        for number in range(config.updates):
            for part in minibatches(laid, config.minibatches, seed=f"{run.seed}/pass/{step}/{number}"):
                found = backward(policy, value, laid, part, advantages, returns, values, config)
                metrics |= found | update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        speed.add((3 + config.updates) * laid.tokens)
        if config.kl_target is not None:
            options = {"episodes": len(rollouts), "horizon": config.kl_horizon}
            run.memory["beta"] = adapted_kl_weight(beta, kl=metrics["kl"], target=config.kl_target, **options)
        online.end_step(step, metrics | speed.result(), judge.measure)

    online.publish()


def value_head(policy: TextModel) -> nn.Linear:
    """From the states that predict tokens (C, H) to values (C, 1); zero at the start, in float32."""
    head = nn.Linear(policy.inner.config.get_text_config().hidden_size, 1, device=policy.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


@torch.no_grad()
def values_of(policy: TextModel, value: nn.Linear, step: Step) -> Tensor:
    """Values (C,) of all the states of a step before its updates."""

    def read(micro: Micro) -> tuple[Tensor, ...]:
        return (read_values(value, policy.answer_states(micro.batch)),)

    return torch.cat([found for (found,) in shared(step.micros, read)])


def read_values(value: nn.Linear, states: Tensor) -> Tensor:
    """Values (C,) of states (C, H)."""
    found: Tensor = value(states.float())[:, 0]
    return found


def token_rewards(scores: Tensor, dense: Tensor, step: Step, *, beta: float, config: Any) -> Tensor:
    """Rewards (C,): each token's own minus beta times its divergence, and an answer's score at its last."""
    divergence = step.old - step.reference if step.full_kl is None else step.full_kl
    rewards = dense.to(divergence) - beta * divergence
    last = step.lengths.long().cumsum(0) - 1
    rewards = rewards.index_add(0, last, scores.to(rewards))
    return whitened(rewards, shift_mean=False) if config.whiten_rewards else rewards


def advantages_of(rewards: Tensor, values: Tensor, step: Step, config: Any) -> tuple[Tensor, Tensor]:
    """Whitened advantages and the returns that values should have been, both (C,)."""
    lengths = step.lengths.long().tolist()
    parts = generalised_advantages(
        list(rewards.split(lengths)), list(values.split(lengths)), gamma=config.gamma, lam=config.lam
    )
    advantages = torch.cat(parts)
    return whitened(advantages), advantages + values


def minibatches(step: Step, count: int, *, seed: str) -> list[list[Micro]]:
    """The micro-batches of each update of a pass, in an order of its own."""
    micros = list(step.micros)
    random.Random(seed).shuffle(micros)
    return [part for at in range(count) if (part := micros[at::count])]


def backward(
    policy: TextModel,
    value: nn.Linear,
    step: Step,
    micros: list[Micro],
    advantages: Tensor,
    returns: Tensor,
    old_values: Tensor,
    config: Any,
) -> dict[str, float]:
    """Gradients of the mean loss over the tokens of ``micros``. Returns its parts."""
    count = sum(sum(micro.batch.counts) for micro in micros)
    totals = {"loss": 0.0, "loss/value": 0.0, "clip_share": 0.0}
    for micro in mine(micros):
        here = micro.tokens
        states = policy.answer_states(micro.batch)
        logps = policy.token_logprobs(micro.batch, states, temperature=config.temperature)
        if config.loss == "apa":
            losses = advantage_regression(logps, step.reference[here], advantages[here], beta=config.beta)
        else:
            losses = clipped_surrogate(
                logps, step.old[here], advantages[here], low=config.clip, high=config.clip
            )
        errors = clipped_value_loss(
            read_values(value, states), old_values[here], returns[here], clip=config.value_clip
        )
        loss = (losses + config.value_weight * errors).sum() / count
        loss.backward()
        totals["loss"] += float(loss.detach())
        totals["loss/value"] += float(errors.detach().sum()) / count
        moved = (logps.detach() - step.old[here]).exp() - 1
        totals["clip_share"] += float((moved.abs() > config.clip).sum()) / count
    return add_up(totals)


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
