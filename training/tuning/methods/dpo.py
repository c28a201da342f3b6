"""Direct preference optimisation (Rafailov et al., arXiv:2305.18290).

1. Tokenise the groups, make pairs of their judgements, and plan the micro-batches.
2. The reference is the model as it starts: the fresh adapter switched off, or a copy of what is trained. Its
   log-probabilities are computed once, in the micro-batches of the plan, or live before each step.
3. Per step: log-probabilities of all candidates, the loss of every pair, the mean over the pairs' weights.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from training.tuning.losses.dpo import dpo_loss, hinge_loss, ipo_loss
from training.tuning.metrics import Means, pair_metrics
from training.tuning.optim import make_optimizer, update
from training.tuning.plan import MicroBatch, make_plan, split
from training.tuning.run import Run
from training.tuning.text.batches import GroupBatch, make_batch
from training.tuning.text.dataset import Example, Prepared, choose_pairs, prepare, preview
from training.tuning.text.models import Frozen, TextModel
from training.tuning.text.pairs import PairIndex, index_pairs, total_weight
from training.tuning.text.reference import reference_logprobs
from training.tuning.text.samples import write_samples
from training.tuning.text.saving import how_to_load, save_result
from training.tuning.text.setup import TOKEN_BUDGET, open_group_tokenizer, open_policy
from training.tuning.text.tokens import how_joined
from training.tuning.throughput import Throughput

LOSSES: dict[str, Callable[..., Tensor]] = {"sigmoid": dpo_loss, "ipo": ipo_loss, "hinge": hinge_loss}
NEEDS = "a choice between two candidates or a ranking (or the columns prompt, chosen, rejected)"


def train(run: Run) -> None:
    """Train a policy on preferences. See the module for the steps."""
    config = run.config
    tokenizer = open_group_tokenizer(run.base, max_length=config.max_length)
    data = prepare(run.train, tokenizer, choose_pairs(config), file=run.dir.train_file, needs=NEEDS)
    held_out = _held_out(run)
    plan = make_plan(data.sizes, config=config, seed=run.seed, budget=TOKEN_BUDGET)

    policy = open_policy(run, kind="causal")
    frozen = policy.frozen_start()
    eval_batches = split(
        range(len(held_out)), [one.tokens.size for one in held_out], most=None, budget=TOKEN_BUDGET
    )
    cached = cached_eval = None
    if config.reference == "cached":
        cached = reference_logprobs(run, policy, frozen, data.examples, plan.micro_batches(), name="train")
        cached_eval = reference_logprobs(run, policy, frozen, held_out, eval_batches, name="eval")

    optimizer = make_optimizer(policy.model.parameters(), config)
    done = run.begin(policy.model, optimizer, total_steps=plan.total_steps)
    if done == 0:
        write_samples(run, policy, tokenizer, step=0, when="before")

    for step in range(done + 1, plan.total_steps + 1):
        speed = Throughput()
        means = Means()
        micro_batches = plan.step(step)
        weight = total_weight(data.examples, micro_batches)
        for micro in micro_batches:
            batch, pairs = _batch(policy, data.examples, micro)
            reference = _reference(policy, frozen, batch, cached, micro)
            losses, metrics = pair_losses(policy.logprobs(batch), reference, pairs, config)
            (losses * pairs.weight).sum().div(weight).backward()
            means.add(metrics, pairs.weight)
            speed.add(batch.tokens)
        values = means.result() | update(optimizer, config, step=step, total_steps=plan.total_steps)
        run.log(step, values | speed.result())
        if held_out and run.due(config.eval_every, step):
            run.log_eval(step, evaluate(run, policy, frozen, held_out, eval_batches, cached_eval))
        run.end_step(step)

    write_samples(run, policy, tokenizer, step=plan.total_steps, when="after")
    run.publish(
        save_result(policy, precision=config.precision, merged=config.merged),
        how_to_load=how_to_load(policy, kind="causal"),
        notes=[how_joined(policy.tokenizer, pair=False)],
    )


def pair_losses(
    policy: Tensor, reference: Tensor, pairs: PairIndex, config: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses (B,) and metrics of the pairs of a batch, from the log-probabilities (N,) of its candidates.

    A target p below 1 (soft labels, ties) weighs the loss of both directions.
    """
    loss = LOSSES[config.loss]
    options = {"beta": config.beta}
    if config.label_smoothing:
        options["label_smoothing"] = config.label_smoothing
    chosen, rejected = (policy.index_select(0, side) for side in (pairs.chosen, pairs.rejected))
    reference_chosen, reference_rejected = (reference[side] for side in (pairs.chosen, pairs.rejected))
    forward = loss(chosen, rejected, reference_chosen, reference_rejected, **options)
    backward = loss(rejected, chosen, reference_rejected, reference_chosen, **options)
    losses = pairs.target * forward + (1 - pairs.target) * backward
    rewards = config.beta * (policy - reference).detach()
    metrics = {"loss": losses, "logps/chosen": chosen, "logps/rejected": rejected}
    return losses, metrics | pair_metrics(rewards[pairs.chosen], rewards[pairs.rejected], pairs.target)


@torch.no_grad()
def evaluate(
    run: Run,
    policy: TextModel,
    frozen: Frozen,
    examples: Sequence[Example],
    micro_batches: Sequence[MicroBatch],
    cached: dict[int, Tensor] | None,
) -> dict[str, float]:
    """The training metrics on held-out groups."""
    means = Means()
    for micro in micro_batches:
        batch, pairs = _batch(policy, examples, micro)
        reference = _reference(policy, frozen, batch, cached, micro)
        means.add(pair_losses(policy.logprobs(batch), reference, pairs, run.config)[1], pairs.weight)
    return means.result()


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    tokenizer = open_group_tokenizer(run.base, max_length=run.config.max_length)
    data = prepare(run.train, tokenizer, choose_pairs(run.config), file=run.dir.train_file, needs=NEEDS)
    return preview(data, tokenizer.tokenizer, joined=how_joined(tokenizer.tokenizer, pair=False))


def _held_out(run: Run) -> list[Example]:
    if not run.eval:
        return []
    tokenizer = open_group_tokenizer(run.base, max_length=run.config.max_length)
    data: Prepared = prepare(
        run.eval, tokenizer, choose_pairs(run.config), file=run.dir.eval_file, needs=None
    )
    return data.examples


def _batch(policy: TextModel, examples: Sequence[Example], micro: MicroBatch) -> tuple[GroupBatch, PairIndex]:
    chosen = [examples[index] for index in micro]
    return make_batch([one.tokens for one in chosen], causal=True, device=policy.device), index_pairs(
        chosen, device=policy.device
    )


@torch.no_grad()
def _reference(
    policy: TextModel, frozen: Frozen, batch: GroupBatch, cached: dict[int, Tensor] | None, micro: MicroBatch
) -> Tensor:
    """Reference log-probabilities (N,) of the batch's candidates."""
    if cached is not None:
        return torch.cat([cached[index] for index in micro])
    with frozen():
        return policy.logprobs(batch)
