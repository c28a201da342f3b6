"""What every method that writes answers as it trains does around its updates."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from training.tuning.plan import Plan, make_plan
from training.tuning.run import Run
from training.tuning.text.models import Frozen, TextModel
from training.tuning.text.rollouts import Prompt, Rollout, Step, lay_out, open_prompts, roll_out
from training.tuning.text.samples import write_samples
from training.tuning.text.saving import how_to_load, save_result
from training.tuning.text.setup import open_group_tokenizer, open_policy
from training.tuning.text.tokens import GroupTokenizer, how_joined

Measure = Callable[[Sequence[Rollout], Step], dict[str, float]]


@dataclass
class Online:
    """Prompts, a policy that answers them, and what it started from."""

    run: Run
    tokenizer: GroupTokenizer
    prompts: list[Prompt]
    held_out: list[Prompt]
    policy: TextModel
    frozen: Frozen
    plan: Plan

    @property
    def context(self) -> int:
        """The most tokens of prompt and answer together."""
        return self.tokenizer.context

    def steps(self, trained: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[int]:
        """The steps that are left, after a checkpoint if there is one; the first attempt shows samples."""
        done = self.run.begin(trained, optimizer, total_steps=self.plan.total_steps)
        if done == 0:
            write_samples(self.run, self.policy, self.tokenizer, step=0, when="before")
        for step in self.run.steps(done):
            self.run.check_stop()
            yield step

    def rows_of(self, step: int) -> list[int]:
        """Which prompts a step has."""
        return [index for micro in self.plan.step(step) for index in micro]

    def prompts_of(self, step: int) -> list[Prompt]:
        """The prompts of a step."""
        return [self.prompts[index] for index in self.rows_of(step)]

    def end_step(self, step: int, metrics: dict[str, Any], measure: Measure) -> None:
        """Log, ``measure`` answers to held-out prompts if it is time, save if it is time."""
        run = self.run
        run.log(step, metrics)
        if self.held_out and run.due(run.config.eval_every, step):
            run.log_eval(step, self._evaluate(measure))
        run.end_step(step)

    @torch.no_grad()
    def _evaluate(self, measure: Measure) -> dict[str, float]:
        """One answer to every held-out prompt, by the same random numbers each time."""
        config, key = self.run.config, f"{self.run.seed}/eval"
        rollouts = roll_out(self.policy, self.held_out, config, key=key, count=1, context=self.context)
        return measure(rollouts, lay_out(self.policy, self.frozen, rollouts, config))

    def publish(self) -> None:
        """Samples after training, and the policy as the result."""
        run, policy = self.run, self.policy
        write_samples(run, policy, self.tokenizer, step=run.total_steps, when="after")
        run.publish(
            save_result(policy, precision=run.config.precision, merged=run.config.merged),
            how_to_load=how_to_load(policy, kind="causal"),
            notes=[how_joined(policy.tokenizer, pair=False)],
        )


def open_online(run: Run, *, only: Container[str] | None = None) -> Online:
    """Everything loaded and read, as the run says. The reference is the model as it starts.

    With ``only``, prompts to train on whose text is in it.
    """
    config = run.config
    tokenizer = open_group_tokenizer(run.base, max_length=config.max_length)
    prompts = open_prompts(run.train, tokenizer, run=run)
    if only is not None:
        prompts = [prompt for prompt in prompts if str(prompt.text) in only]
    held_out = open_prompts(run.eval, tokenizer, run=run)
    policy = open_policy(run, kind="causal")
    plan = make_plan([1] * len(prompts), config=config, seed=run.seed, budget=config.batch_size)
    return Online(run, tokenizer, prompts, held_out, policy, policy.frozen_start(), plan)
