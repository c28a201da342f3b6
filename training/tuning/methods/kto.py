"""Kahneman-Tversky optimisation (Ethayarajh et al., arXiv:2402.01306): answers called good or bad, one by
one.

1. Label the answers: thumbs as they are; of a choice the winner is good and the others are bad.
2. Join every prompt with an answer to another prompt, the next one of its batch.
3. Per step: z₀, the mean log-ratio of policy to reference on those mismatched answers of the whole batch, at
   least 0 and without a gradient; then the loss of every labelled answer, the mean over the votes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training.tuning.config import KTOConfig
from training.tuning.data import Group, Text
from training.tuning.errors import BadInput
from training.tuning.labels import make_labels
from training.tuning.losses.kto import apo_bad_loss, apo_good_loss, kto_bad_loss, kto_good_loss
from training.tuning.metrics import Means
from training.tuning.pairs import Pair
from training.tuning.plan import MicroBatch
from training.tuning.processes import mine, shared
from training.tuning.run import Run
from training.tuning.text.dataset import Choose, Example, texts_of
from training.tuning.text.direct import Direct, inspect_direct
from training.tuning.text.logprobs import per_candidate
from training.tuning.text.tokens import GroupTokenizer, Unusable

NEEDS = "an answer with a thumb (or the columns prompt, completion, label), or a choice"


def train(run: Run) -> None:
    """Train a policy on labelled answers. See the module for the steps."""
    config: KTOConfig = run.config
    work = Direct(run, choose(config), needs=NEEDS, reference=config.reference)
    if config.loss == "kto":
        _add_mismatched(work, "other", work.examples, work.plan.batches, work.plan.micro_batches())
        _add_mismatched(work, "eval-other", work.held_out, [work.eval_batches], work.eval_batches)

    for step in work.begin():
        means = Means()
        micro_batches = work.plan.step(step)
        kl = drift(work, micro_batches, "other", config)
        votes = sum(_votes(work.examples[index], config) for micro in micro_batches for index in micro)
        for micro in mine(micro_batches):
            answer_losses(work, micro, "train", config, kl, means).sum().div(votes).backward()
        work.end_step(step, means, lambda: evaluate(work, config))
    work.finish()


def answer_losses(
    work: Direct, micro: MicroBatch, source: str, config: Any, kl: float, means: Means
) -> Tensor:
    """Losses of the answers of a micro-batch (N,), each times its votes; the metrics go into ``means``."""
    reading = work.read(micro, source=source)
    log_ratio = per_candidate(reading.policy - reading.reference, reading.batch.counts)
    logps = per_candidate(reading.policy, reading.batch.counts)
    labels = [label for example in reading.examples for label in make_labels(example.group, config)]
    good = log_ratio.new_tensor([label.good for label in labels])
    bad = log_ratio.new_tensor([label.bad for label in labels])
    losses = good * config.desirable_weight * good_loss(log_ratio, config, kl)
    losses = losses + bad * config.undesirable_weight * bad_loss(log_ratio, config, kl)
    rewards = config.beta * log_ratio
    means.add({"loss": losses / (good + bad)}, good + bad)
    means.add({"rewards/chosen": rewards, "logps/chosen": logps}, good)
    means.add({"rewards/rejected": rewards, "logps/rejected": logps}, bad)
    if config.loss == "kto":
        means.add({"kl": torch.full_like(losses, kl)}, torch.ones_like(losses))
    return losses


def good_loss(log_ratio: Tensor, config: Any, kl: float) -> Tensor:
    """Losses (N,) of answers as if all were good."""
    if config.loss == "kto":
        return kto_good_loss(log_ratio, beta=config.beta, kl=kl)
    return apo_good_loss(log_ratio, beta=config.beta)


def bad_loss(log_ratio: Tensor, config: Any, kl: float) -> Tensor:
    """Losses (N,) of answers as if all were bad."""
    if config.loss == "kto":
        return kto_bad_loss(log_ratio, beta=config.beta, kl=kl)
    return apo_bad_loss(log_ratio, beta=config.beta)


@torch.no_grad()
def drift(work: Direct, micro_batches: Sequence[MicroBatch], source: str, config: Any) -> float:
    """z₀ of a step: the mean log-ratio of all its mismatched answers, at least 0. 0 for losses without it."""
    if config.loss != "kto":
        return 0.0

    def ratios(micro: MicroBatch) -> Tensor:
        one = work.read(micro, source=source)
        return per_candidate(one.policy - one.reference, one.batch.counts)

    return max(0.0, float(torch.cat(shared(micro_batches, ratios)).mean()))


def evaluate(work: Direct, config: Any) -> dict[str, float]:
    """The training metrics on held-out groups, with their own mismatched answers."""
    means = Means()
    kl = drift(work, work.eval_batches, "eval-other", config)
    for micro in mine(work.eval_batches):
        answer_losses(work, micro, "eval", config, kl, means)
    return means.result()


def mismatch(
    tokenizer: GroupTokenizer,
    examples: Sequence[Example],
    batches: Sequence[Sequence[int]],
    *,
    pool: Sequence[Example],
) -> list[Example]:
    """Every prompt with the first answer to the next other prompt of its batch, or, failing that, of
    ``pool``.

    Raises BadInput if all prompts are the same: there is nothing to measure the drift with.
    """
    found: dict[int, Example] = {}
    for batch in batches:
        for at, index in enumerate(batch):
            group = examples[index].group
            others = [examples[one] for one in (*batch[at + 1 :], *batch[:at])]
            other = next((one.group for one in (*others, *pool) if one.group.prompt != group.prompt), None)
            if other is None:
                raise BadInput(
                    'the loss "kto" needs answers to at least two prompts; with one, use "apo_zero_unpaired"',
                    field="config.loss",
                )
            found[index] = Example(group, tokenizer.encode(group.prompt, texts_of(other)[:1]))
    return [found[index] for index in range(len(examples))]


def choose(config: KTOConfig) -> Choose:
    """The labelled answers of a group."""

    def chosen(group: Group) -> tuple[list[Text], list[Pair]]:
        texts = texts_of(group)
        labels = make_labels(group, config)
        if not labels:
            raise Unusable("no thumb, choice or ranking")
        return [texts[label.candidate] for label in labels], []

    return chosen


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    return inspect_direct(run, choose(run.config), needs=NEEDS)


def _add_mismatched(
    work: Direct,
    name: str,
    examples: Sequence[Example],
    batches: Sequence[Sequence[MicroBatch]],
    micro_batches: Sequence[MicroBatch],
) -> None:
    flat = [[index for micro in batch for index in micro] for batch in batches]
    work.add_source(name, mismatch(work.tokenizer, examples, flat, pool=work.examples), micro_batches)


def _votes(example: Example, config: Any) -> float:
    return sum(label.good + label.bad for label in make_labels(example.group, config))
