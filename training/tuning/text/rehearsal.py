"""Rehearsal of what the start masters: DPH-RL (arXiv:2509.07430).

Prompts that the start nearly always answers well are not trained on by reward; the policy is kept close to
the start on the start's own answers to them, by a divergence that covers all of its mass.
"""

from typing import Any

from training.tuning.losses.policy_gradient import generator_divergence
from training.tuning.processes import add_up, mine
from training.tuning.run import Run
from training.tuning.text.judging import Judge
from training.tuning.text.models import TextModel
from training.tuning.text.rollouts import Prompt, Rollout, Step, roll_out

MASTERED = 0.9  # mean reward of the start's answers


def rehearsals(
    run: Run, policy: TextModel, judge: Judge, prompts: list[Prompt], *, context: int
) -> dict[int, Rollout]:
    """The start's answers to the prompts that it masters, by their index (DPH-RL's D_pef)."""
    config = run.config
    written = roll_out(
        policy, prompts, config, key=f"{run.seed}/mastered", count=config.num_generations, context=context
    )
    rewards = judge.score(written).total.view(len(written), -1)
    return {index: one for index, one in enumerate(written) if float(rewards[index].mean()) >= MASTERED}


def rehearse(policy: TextModel, step: Step, config: Any) -> dict[str, float]:
    """Gradients of the divergence from the start on its own answers, a mean over tokens."""
    total = 0.0
    for micro in mine(step.micros):
        logps = policy.token_logprobs(micro.batch, temperature=config.temperature)
        divergence = generator_divergence(logps, step.reference[micro.tokens], kind=config.mastered)
        loss = config.mastered_weight * divergence.sum() / len(step.old)
        loss.backward()
        total += float(loss.detach())
    return add_up({"loss/mastered": total})
