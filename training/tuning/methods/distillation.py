"""On-policy distillation: GKD (Agarwal et al., arXiv:2306.13649).

1. Read the prompts, and the answers of the rows where some steps learn on those. The teacher is the one model
   of the ``reward`` list; it has the student's tokens.
2. Per step: an answer of the student to each prompt (or the rows' answers, in a share of the steps).
3. The generalised Jensen-Shannon divergence of the student's next-token distributions from the teacher's,
   over the whole vocabulary, the mean over answer tokens. No gradient goes through the sampling.

Divergences are at temperature 1, whatever the temperature of sampling.
"""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from training.tuning.config import SFTConfig
from training.tuning.errors import BadInput
from training.tuning.losses.distillation import generalised_jsd
from training.tuning.methods.sft import choose_answers
from training.tuning.optim import make_optimizer, update
from training.tuning.processes import add_up, mine
from training.tuning.run import Run
from training.tuning.text.batches import GroupBatch
from training.tuning.text.dataset import prepare
from training.tuning.text.generation import Answer
from training.tuning.text.guided import check_same_tokens
from training.tuning.text.loading import load_for_use
from training.tuning.text.logprobs import token_divergence
from training.tuning.text.models import TextModel
from training.tuning.text.online import open_online
from training.tuning.text.rollouts import (
    Prompt,
    Rollout,
    Step,
    lay_out,
    preview_prompts,
    roll_out,
)
from training.tuning.text.setup import open_group_tokenizer
from training.tuning.throughput import Throughput

NEEDS = "an answer for the steps that do not learn on the student's own (on_policy below 1)"


def train(run: Run) -> None:
    """Train a student on a teacher. See the module for the steps."""
    config = run.config
    given = given_answers(run) if config.on_policy < 1 else {}
    online = open_online(run, only=given or None)
    student, frozen = online.policy, online.frozen
    teacher = open_teacher(run, student)

    def measure(_rollouts: Sequence[Rollout], laid: Step) -> dict[str, float]:
        return divergence_of(student, teacher, laid, config) | facts(laid)

    optimizer = make_optimizer(student.model.parameters(), config)
    for step in online.steps(student.model, optimizer):
        speed = Throughput()
        batch = online.prompts_of(step)
        if writes_itself(run, step):
            key = f"{run.seed}/rollout/{step}"
            rollouts = roll_out(student, batch, config, key=key, count=1, context=online.context)
        else:
            rollouts = [given[str(prompt.text)] for prompt in batch]
        laid = lay_out(student, frozen, rollouts, config)
        metrics = backward(student, teacher, laid, config) | facts(laid)
        metrics |= update(optimizer, config, step=step, total_steps=online.plan.total_steps)
        speed.add(4 * laid.tokens)
        online.end_step(step, metrics | speed.result(), measure)

    online.publish()


def open_teacher(run: Run, student: TextModel) -> TextModel:
    """The one model of the reward list."""
    entry = run.reward[0]
    plain = entry.model is not None and not (entry.transform or entry.gate or entry.credit)
    if len(run.reward) > 1 or not plain or entry.weight != 1:
        raise BadInput(
            "distillation takes one language model as its teacher, with neither weight, transform, gate nor "
            "credit",
            file=run.dir.run_file,
            field="reward",
        )
    teacher = load_for_use(entry.model, kind="causal", precision=run.config.precision, device=run.device)
    check_same_tokens(student, teacher)
    if teacher.layout != student.layout:
        raise BadInput(
            f"student and teacher read batches in different ways ({student.layout} and {teacher.layout})",
            file=entry.model,
        )
    return teacher


def writes_itself(run: Run, step: int) -> bool:
    """Whether a step learns on the student's own answers."""
    return random.Random(f"{run.seed}/on-policy/{step}").random() < run.config.on_policy


def given_answers(run: Run) -> dict[str, Rollout]:
    """The rows' answers, as ``sft`` would choose them, by prompt."""
    tokenizer = open_group_tokenizer(run.base, max_length=run.config.max_length)
    data = prepare(run.train, tokenizer, choose_answers(SFTConfig()), file=run.dir.train_file, needs=NEEDS)
    found = {}
    for example in data.examples:
        answers = [Answer(ids, [0.0] * len(ids), ended=True) for ids in example.tokens.answers]
        prompt = Prompt(tokenizer.prompt_ids(example.group.prompt), example.group)
        texts = [""] * len(answers)  # nobody reads them
        found[str(example.group.prompt)] = Rollout(prompt, answers, texts, example.tokens)
    return found


def backward(student: TextModel, teacher: TextModel, step: Step, config: Any) -> dict[str, float]:
    """Gradients of the mean divergence over a step's tokens; returns its value."""
    total = 0.0
    for micro in mine(step.micros):
        loss = divergences(student, teacher, micro.batch, config).sum() / len(step.old)
        loss.backward()
        total += float(loss.detach())
    return add_up({"loss": total})


@torch.no_grad()
def divergence_of(student: TextModel, teacher: TextModel, step: Step, config: Any) -> dict[str, float]:
    """The same without gradients."""
    total = sum(
        float(divergences(student, teacher, micro.batch, config).sum()) for micro in mine(step.micros)
    )
    return add_up({"loss": total / len(step.old)})


def divergences(student: TextModel, teacher: TextModel, batch: GroupBatch, config: Any) -> Tensor:
    """Of every answer token's distributions (C,)."""
    states = student.answer_states(batch)
    with torch.no_grad():
        other = teacher.answer_states(batch)
    own, its = student.lm_head, teacher.lm_head
    return token_divergence(
        (states, own.weight, own.bias),
        (other, its.weight, its.bias),
        partial(generalised_jsd, beta=config.interpolation),
        dtype=student.dtype,
    )


def facts(step: Step) -> dict[str, float]:
    """What there is to log of answers that nobody scored."""
    return {name: value for name, value in step.facts().items() if name != "answers/logprob_gap"}


def inspect(run: Run) -> dict[str, Any]:
    """The prompts as the student will see them."""
    return preview_prompts(run)
