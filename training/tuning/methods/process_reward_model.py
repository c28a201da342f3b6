"""A process reward model: is each step of an answer right? (Lightman et al., arXiv:2305.20050)

1. The base gets a head with one output (or one of every member); it is read at the last token of each step.
2. Steps and their labels are the marks of type ``step``: those up to and with the first error. Or sentences
   (or clauses), wrong where somebody marked a span in them.
3. Per step of the optimizer: binary cross-entropy of every labelled step, the mean over them.
4. Evaluate on held-out answers; the result is the best of the evaluated checkpoints.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.tuning.data import Group, Text
from training.tuning.errors import BadInput
from training.tuning.losses.steps import step_loss
from training.tuning.metrics import Means
from training.tuning.optim import make_optimizer, update
from training.tuning.pairs import Pair
from training.tuning.plan import MicroBatch, make_plan, split
from training.tuning.processes import add_up, mine
from training.tuning.rewards.info import RewardInfo, write_info
from training.tuning.run import Run
from training.tuning.text.batches import GroupBatch, make_batch
from training.tuning.text.dataset import Example, Prepared, prepare, preview, texts_of
from training.tuning.text.models import TextModel
from training.tuning.text.reward_saving import reward_notes
from training.tuning.text.saving import how_to_load, save_result
from training.tuning.text.setup import TOKEN_BUDGET, open_policy, open_tokenizer, training_budget
from training.tuning.text.steps import Step, labelled_segments, labelled_steps, last_token
from training.tuning.text.tokens import GroupTokenizer, Unusable, how_joined
from training.tuning.text.vocabulary import narrow, tokens_of, widen
from training.tuning.throughput import Throughput

NEEDS = {
    "steps": "marked steps (marks of type step, with start and end)",
    "sentences": "marks, or none where nothing was found wrong",
    "clauses": "marks, or none where nothing was found wrong",
}
Label = Callable[[Group], list[Step]]


@dataclass(frozen=True)
class Places:
    """B labelled steps of a batch: where their last tokens lie, and the share who found them right."""

    at: Tensor
    target: Tensor


def train(run: Run) -> None:
    """Train on marked steps. See the module."""
    config = run.config
    tokenizer = open_step_tokenizer(run)
    data = _prepare(run, tokenizer, held_out=False)
    held_out = _prepare(run, tokenizer, held_out=True).examples if run.eval else []
    plan = make_plan(data.sizes, config=config, seed=run.seed, budget=training_budget(run.device))
    label = labels_of(config)
    counts = [len(_ends(example, label)) for example in data.examples]

    model = open_policy(run, kind="reward", outputs=config.members)
    narrow(model, tokens_of(one.tokens for one in (*data.examples, *held_out)), config)
    optimizer = make_optimizer(model.model.parameters(), config)
    done = run.begin(model.model, optimizer, total_steps=plan.total_steps)

    for step in run.steps(done):
        speed, means = Throughput(), Means()
        micro_batches = plan.step(step)
        total = sum(counts[index] for micro in micro_batches for index in micro)
        for micro in mine(micro_batches):
            batch, places = _batch(model, data.examples, micro, label)
            losses, metrics = step_losses(model, batch, places)
            losses.sum().div(total * config.members).backward()
            means.add(metrics, torch.ones_like(places.target))
            speed.add(batch.tokens)
        values = means.result() | update(optimizer, config, step=step, total_steps=plan.total_steps)
        run.log(step, values | add_up(speed.result()))
        if held_out and run.due(config.eval_every, step):
            best_by = config.metric_for_best if config.keep_best else None
            run.log_eval(step, evaluate(model, held_out, label), best_by=best_by)
        run.end_step(step)

    kept = run.load_best(model.model)
    widen(model)
    info = RewardInfo(kind="steps", outputs=config.members, step_rule=config.score, segments=config.segments)
    write = save_result(model, precision=config.precision, merged=config.merged)

    def write_all(folder: Path) -> None:
        write(folder)
        write_info(folder, info)

    run.publish(
        write_all,
        how_to_load=how_to_load(model, kind="reward"),
        notes=[how_joined(model.tokenizer, pair=False), f"Weights of step {kept}.", *reward_notes(info)],
    )


def step_losses(model: TextModel, batch: GroupBatch, places: Places) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses (B, M) and metrics (B,) of the steps of a batch."""
    states = model.states(batch, at=places.at)
    logits = model.score_head(states.to(torch.promote_types(states.dtype, torch.float32)))
    losses = torch.stack([step_loss(column, places.target) for column in logits.unbind(dim=1)], dim=1)
    margin = logits.detach().mean(dim=1)
    right = torch.where(margin > 0, places.target, 1 - places.target)
    return losses, {"loss": losses.mean(dim=1), "accuracy": right, "right": places.target}


@torch.no_grad()
def evaluate(model: TextModel, examples: list[Example], label: Label) -> dict[str, float]:
    """Loss and accuracy over held-out steps, and over those that are wrong: they are few."""
    means = Means()
    sizes = [one.tokens.size for one in examples]
    for micro in mine(split(range(len(examples)), sizes, most=None, budget=TOKEN_BUDGET)):
        batch, places = _batch(model, examples, micro, label)
        _, metrics = step_losses(model, batch, places)
        means.add(metrics, torch.ones_like(places.target))
        means.add({"accuracy_wrong": metrics["accuracy"]}, (places.target < 0.5).float())
    return means.result()


def open_step_tokenizer(run: Run) -> GroupTokenizer:
    """A tokenizer that says where an answer's tokens lie. An encoder, which reads ahead, is refused."""
    tokenizer = open_tokenizer(run.base, kind="reward", max_length=run.config.max_length)
    if not isinstance(tokenizer, GroupTokenizer):
        raise BadInput("an encoder sees what follows a step; use a causal language model", file=run.base)
    tokenizer.with_offsets = True
    return tokenizer


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    tokenizer = open_step_tokenizer(run)
    data = _prepare(run, tokenizer, held_out=False)
    return preview(data, tokenizer.tokenizer, joined=how_joined(tokenizer.tokenizer, pair=False))


def _prepare(run: Run, tokenizer: GroupTokenizer, *, held_out: bool) -> Prepared:
    groups, file = (run.eval, run.dir.eval_file) if held_out else (run.train, run.dir.train_file)
    label = labels_of(run.config)
    needs = None if held_out else NEEDS[run.config.segments]
    prepared = prepare(groups, tokenizer, partial(_choose, label), file=file, needs=needs)
    prepared.examples = [example for example in prepared.examples if _ends(example, label)]
    if not prepared.examples and not held_out:
        raise BadInput("every marked step lies behind max_length", file=file)
    return prepared


def labels_of(config: Any) -> Label:
    """What says which steps (or segments) of a group are right."""
    if config.segments == "steps":
        return labelled_steps
    return partial(labelled_segments, by=config.segments, category=config.category)


def _choose(label: Label, group: Group) -> tuple[list[Text], list[Pair]]:
    if not label(group):
        raise Unusable("no marked step" if label is labelled_steps else "nobody was asked for marks")
    return texts_of(group), []


def _ends(example: Example, label: Label) -> list[tuple[int, int, float]]:
    """(candidate, last token among the answer's, label) of every step that the tokens reach."""
    assert example.tokens.offsets is not None
    found = []
    for step in label(example.group):
        at = last_token(example.tokens.offsets[step.candidate], (step.start, step.end))
        if at is not None:
            found.append((step.candidate, at, step.target))
    return found


def _batch(
    model: TextModel, examples: Sequence[Example], micro: MicroBatch, label: Label
) -> tuple[GroupBatch, Places]:
    chosen = [examples[index] for index in micro]
    batch = make_batch([one.tokens for one in chosen], causal=True, device=model.device)
    first = batch.first.tolist()
    at, target = [], []
    for offset, one in zip(batch.offsets(), chosen, strict=True):
        for candidate, token, share in _ends(one, label):
            at.append(first[offset + candidate] + one.tokens.starts[candidate] + token)
            target.append(share)
    places = torch.tensor(at, dtype=torch.long, device=model.device)
    return batch, Places(places, torch.tensor(target, dtype=torch.float32, device=model.device))
