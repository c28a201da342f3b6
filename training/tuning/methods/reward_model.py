"""A Bradley-Terry reward model (Stiennon et al., arXiv:2009.01325).

1. The base gets a head with one output: a decoder reads the score from the last token of prompt and
   answer, an encoder from its first.
2. Tokenise the groups, make pairs of their judgements, and plan the micro-batches.
3. Per step: scores of all candidates, the loss of every pair, the mean over the pairs' weights.
4. Evaluate on held-out groups; the result is the best of the evaluated checkpoints.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training.tuning.config import PairKeys
from training.tuning.losses.bradley_terry import bradley_terry_loss
from training.tuning.metrics import Means, pair_metrics, wilson
from training.tuning.optim import make_optimizer, update
from training.tuning.pairs import make_pairs
from training.tuning.plan import MicroBatch, make_plan, split
from training.tuning.run import Run
from training.tuning.text.batches import GroupBatch, make_batch
from training.tuning.text.dataset import Example, Prepared, choose_pairs, prepare, preview
from training.tuning.text.models import TextModel
from training.tuning.text.pairs import PairIndex, index_pairs, total_weight
from training.tuning.text.saving import how_to_load, save_result
from training.tuning.text.setup import TOKEN_BUDGET, open_policy, open_tokenizer
from training.tuning.text.tokens import GroupTokenizer, PairTokenizer, how_joined
from training.tuning.throughput import Throughput

NEEDS = "a choice between two candidates or a ranking (or the columns prompt, chosen, rejected)"
# What most annotators said, whatever the config does with ties: a tied vote has no majority.
MAJORITY = PairKeys(pairs="majority", ties="half", both_bad="half")


def train(run: Run) -> None:
    """Train a reward model on preferences. See the module for the steps."""
    config = run.config
    tokenizer = open_tokenizer(run.base, kind="reward", max_length=config.max_length)
    data = _prepare(run, tokenizer, held_out=False)
    held_out = _prepare(run, tokenizer, held_out=True).examples if run.eval else []
    eval_batches = split(
        range(len(held_out)), [one.tokens.size for one in held_out], most=None, budget=TOKEN_BUDGET
    )
    plan = make_plan(data.sizes, config=config, seed=run.seed, budget=TOKEN_BUDGET)

    model = open_policy(run, kind="reward")
    optimizer = make_optimizer(model.model.parameters(), config)
    done = run.begin(model.model, optimizer, total_steps=plan.total_steps)

    for step in range(done + 1, plan.total_steps + 1):
        speed = Throughput()
        means = Means()
        micro_batches = plan.step(step)
        weight = total_weight(data.examples, micro_batches)
        for micro in micro_batches:
            batch, pairs = _batch(model, data.examples, micro)
            losses, metrics = pair_losses(model.scores(batch), pairs)
            (losses * pairs.weight).sum().div(weight).backward()
            means.add(metrics, pairs.weight)
            speed.add(batch.tokens)
        values = means.result() | update(optimizer, config, step=step, total_steps=plan.total_steps)
        run.log(step, values | speed.result())
        if held_out and run.due(config.eval_every, step):
            best_by = config.metric_for_best if config.keep_best else None
            run.log_eval(step, evaluate(model, held_out, eval_batches), best_by=best_by)
        run.end_step(step)

    kept = run.load_best(model.model)
    run.publish(
        save_result(model, precision=config.precision, merged=config.merged),
        how_to_load=how_to_load(model, kind="reward"),
        notes=[
            how_joined(model.tokenizer, pair=model.layout == "separate"),
            f"Weights of step {kept}. Only differences between answers to the same prompt mean anything.",
        ],
    )


def pair_losses(scores: Tensor, pairs: PairIndex) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses (B,) and metrics of the pairs of a batch, from the scores (N,) of its candidates."""
    chosen, rejected = (scores.index_select(0, side) for side in (pairs.chosen, pairs.rejected))
    losses = bradley_terry_loss(chosen, rejected, pairs.target)
    return losses, {"loss": losses} | pair_metrics(chosen, rejected, pairs.target)


@torch.no_grad()
def evaluate(
    model: TextModel, examples: Sequence[Example], micro_batches: Sequence[MicroBatch]
) -> dict[str, float]:
    """Loss and accuracy over all votes, and accuracy against the majority with its 95 % interval (Wilson)."""
    means, right, total = Means(), 0.0, 0
    for micro in micro_batches:
        batch, pairs = _batch(model, examples, micro)
        scores = model.scores(batch)
        losses, metrics = pair_losses(scores, pairs)
        means.add({"loss": losses, "accuracy": metrics["rewards/accuracy"]}, pairs.weight)
        for index, own in zip(micro, scores.split(batch.sizes), strict=True):
            for pair in make_pairs(examples[index].group, MAJORITY):
                if pair.target != 0.5:
                    margin = float(own[pair.chosen] - own[pair.rejected])
                    right += 0.5 if margin == 0 else float(margin > 0)
                    total += 1
    values = means.result()
    if total:
        low, high = wilson(right, total)
        values |= {"accuracy_majority": right / total, "accuracy_low": low, "accuracy_high": high}
    return values


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    tokenizer = open_tokenizer(run.base, kind="reward", max_length=run.config.max_length)
    pair = isinstance(tokenizer, PairTokenizer)
    data = _prepare(run, tokenizer, held_out=False)
    return preview(data, tokenizer.tokenizer, joined=how_joined(tokenizer.tokenizer, pair=pair))


def _prepare(run: Run, tokenizer: GroupTokenizer | PairTokenizer, *, held_out: bool) -> Prepared:
    groups, file = (run.eval, run.dir.eval_file) if held_out else (run.train, run.dir.train_file)
    needs = None if held_out else NEEDS
    return prepare(groups, tokenizer, choose_pairs(run.config), file=file, needs=needs)


def _batch(model: TextModel, examples: Sequence[Example], micro: MicroBatch) -> tuple[GroupBatch, PairIndex]:
    chosen = [examples[index] for index in micro]
    batch = make_batch(
        [one.tokens for one in chosen],
        causal=model.layout != "separate",
        device=model.device,
        position_offset=model.position_offset,
    )
    return batch, index_pairs(chosen, device=model.device)
