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
from training.tuning.plan import make_plan
from training.tuning.processes import add_up, mine
from training.tuning.rewards.selection import best_of, best_share
from training.tuning.run import Run
from training.tuning.text.models import TextModel
from training.tuning.text.rollouts import (
    Judge,
    Rollout,
    Step,
    evaluate,
    lay_out,
    make_rollout,
    open_prompts,
    preview_prompts,
    roll_out,
)
from training.tuning.text.samples import write_samples
from training.tuning.text.saving import how_to_load, save_result
from training.tuning.text.setup import open_group_tokenizer, open_policy
from training.tuning.text.tokens import how_joined
from training.tuning.throughput import Throughput


def train(run: Run) -> None:
    """Train a policy on a reward. See the module for the steps."""
    config = run.config
    tokenizer = open_group_tokenizer(run.base, max_length=config.max_length)
    prompts = open_prompts(run.train, tokenizer, run=run)
    held_out = open_prompts(run.eval, tokenizer, run=run)
    policy = open_policy(run, kind="causal")
    frozen = policy.frozen_start()
    judge = Judge(run, policy, frozen, prompts + held_out, context=tokenizer.context)
    plan = make_plan([1] * len(prompts), config=config, seed=run.seed, budget=config.batch_size)

    optimizer = make_optimizer(policy.model.parameters(), config)
    done = run.begin(policy.model, optimizer, total_steps=plan.total_steps)
    if done == 0:
        write_samples(run, policy, tokenizer, step=0, when="before")

    for step in run.steps(done):
        speed = Throughput()
        run.check_stop()
        rollouts = roll_out(
            policy,
            [prompts[index] for micro in plan.step(step) for index in micro],
            config,
            key=f"{run.seed}/rollout/{step}",
            count=config.num_generations,
            context=tokenizer.context,
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
        metrics |= update(optimizer, config, step=step, total_steps=plan.total_steps)
        speed.add(3 * best.tokens)
        run.log(step, metrics | speed.result())
        if held_out and run.due(config.eval_every, step):
            run.log_eval(step, evaluate(run, policy, frozen, judge, held_out, context=tokenizer.context))
        run.end_step(step)

    write_samples(run, policy, tokenizer, step=run.total_steps, when="after")
    run.publish(
        save_result(policy, precision=config.precision, merged=config.merged),
        how_to_load=how_to_load(policy, kind="causal"),
        notes=[how_joined(policy.tokenizer, pair=False)],
    )


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
