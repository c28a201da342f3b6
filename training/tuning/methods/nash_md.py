"""Nash-MD (Munos et al., arXiv:2312.00886): policy gradients in a game against a mixture with the start.

1. Read the prompts. The reference is the model as it starts.
2. Per step: an answer of the policy to each prompt, and one of its opponent: token by token the geometric
   mixture of policy and reference. The rewards say how probable it is that the first is preferred.
3. The gradient of the policy's answers with that probability, less one half and less beta times their
   log-ratio to the reference. Where it comes to rest, no policy is preferred to it in the regularised game.

A preference may be cyclic: then no reward expresses it, and the answer is a mixed one.
"""

from functools import partial
from typing import Any

from torch import Tensor

from training.tuning.losses.nash import nash_advantages, win_probabilities
from training.tuning.losses.policy_gradient import policy_gradient
from training.tuning.optim import make_optimizer, update
from training.tuning.processes import add_up, mine
from training.tuning.run import Run
from training.tuning.text.generation import Guided
from training.tuning.text.guided import Guide
from training.tuning.text.judging import open_judge
from training.tuning.text.logprobs import per_candidate
from training.tuning.text.models import Frozen, TextModel
from training.tuning.text.online import open_online
from training.tuning.text.rollouts import (
    Step,
    lay_out,
    make_rollout,
    preview_prompts,
    roll_out,
)
from training.tuning.throughput import Throughput


def train(run: Run) -> None:
    """Train a policy on preferences. See the module for the steps."""
    config = run.config
    online = open_online(run)
    policy, frozen, judge = online.policy, online.frozen, open_judge(online)

    optimizer = make_optimizer(policy.model.parameters(), config)
    for step in online.steps(policy.model, optimizer):
        speed = Throughput()
        batch = online.prompts_of(step)
        key = f"{run.seed}/rollout/{step}"
        write = partial(roll_out, policy, batch, config, count=1, context=online.context)
        own = write(key=key)
        others = write(key=f"{key}/opponent", guided=opponent(policy, frozen, share=config.mixture))
        both = [
            make_rollout(policy, one.prompt, one.answers + other.answers)
            for one, other in zip(own, others, strict=True)
        ]
        judged = judge.score(both)
        wins = win_probabilities(
            judged.total.view(-1, 2), are_probabilities=config.preference == "probabilities"
        )
        laid = lay_out(policy, frozen, own, config)
        advantages = nash_advantages(wins, laid.sums(laid.old - laid.reference), beta=config.beta)
        metrics = judge.metrics(judged) | laid.facts() | {"wins": float(wins.mean())}
        metrics |= {"loss": backward(policy, laid, advantages, config)}
        metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        speed.add(3 * laid.tokens)
        online.end_step(step, metrics | speed.result(), judge.measure)

    online.publish()


def opponent(policy: TextModel, frozen: Frozen, *, share: float) -> Guided:
    """What makes a policy write as its geometric mixture with what it started from."""

    def guide(mask: Tensor) -> Guide:
        return Guide([policy], [share], mask, own=1 - share, within=frozen)

    return guide


def backward(policy: TextModel, step: Step, advantages: Tensor, config: Any) -> float:
    """Gradients of the mean loss over a step's answers; returns its value."""
    total = 0.0
    for micro in mine(step.micros):
        logps = policy.token_logprobs(micro.batch, temperature=config.temperature)
        sums = per_candidate(logps, micro.batch.counts)
        loss = policy_gradient(sums, advantages[micro.answers]).sum() / len(step.lengths)
        loss.backward()
        total += float(loss.detach())
    return add_up({"loss": total})["loss"]


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the policy will see them."""
    return preview_prompts(run)
