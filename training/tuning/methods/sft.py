"""Supervised fine-tuning on answers (as in step 1 of Ouyang et al., arXiv:2203.02155).

1. Choose the answers of each group: demonstrations as they are; corrections, or the winners of the vote. Or
   make demonstrations of how answers are corrected or criticised.
2. Tokenise and plan, as for every text method; an answer's prompt is shared if a group has several.
3. Per step: the mean negative log-likelihood over all answer tokens of the batch.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from training.tuning.config import SFTConfig
from training.tuning.data import Group, Judgement, Text
from training.tuning.losses.sft import dft_loss, sft_loss
from training.tuning.metrics import Means
from training.tuning.optim import make_optimizer, update
from training.tuning.pairs import VOTING_KINDS, Pair
from training.tuning.plan import MicroBatch, make_plan, split
from training.tuning.processes import add_up, mine, shared
from training.tuning.run import Run
from training.tuning.text.batches import GroupBatch, make_batch
from training.tuning.text.dataset import Example, prepare, preview, texts_of
from training.tuning.text.models import TextModel
from training.tuning.text.rewrites import as_demonstrations, critiques_of, rewrites_of
from training.tuning.text.samples import write_samples
from training.tuning.text.saving import how_to_load, save_result
from training.tuning.text.setup import (
    TOKEN_BUDGET,
    open_group_tokenizer,
    open_policy,
    training_budget,
)
from training.tuning.text.tokens import Unusable, how_joined
from training.tuning.throughput import Throughput

LOSSES = {"nll": sft_loss, "dft": dft_loss}
ANSWER = "an answer: a demonstration, a correction, or one that judgements prefer"
NEEDS = {
    "preferred": ANSWER,
    "all": ANSWER,
    "rewrites": "a correction, or an answer that is preferred to another",
    "critiques": "marked spans",
}


def train(run: Run) -> None:
    """Train a policy to write the chosen answers. See the module for the steps."""
    config = run.config
    tokenizer = open_group_tokenizer(run.base, max_length=config.max_length)
    data = prepare(
        demonstrations(run.train, config),
        tokenizer,
        choose_answers(config),
        file=run.dir.train_file,
        needs=NEEDS[config.train_on],
    )
    held_out: list[Example] = []
    if run.eval:
        held_out = prepare(
            demonstrations(run.eval, config),
            tokenizer,
            choose_answers(config),
            file=run.dir.eval_file,
            needs=None,
        ).examples
    eval_batches = split(
        range(len(held_out)), [one.tokens.size for one in held_out], most=None, budget=TOKEN_BUDGET
    )
    plan = make_plan(data.sizes, config=config, seed=run.seed, budget=training_budget(run.device))

    policy = open_policy(run, kind="causal")
    optimizer = make_optimizer(policy.model.parameters(), config)
    done = run.begin(policy.model, optimizer, total_steps=plan.total_steps)
    if done == 0:
        write_samples(run, policy, tokenizer, step=0, when="before")

    for step in run.steps(done):
        speed = Throughput()
        means = Means()
        micro_batches = plan.step(step)
        tokens = answer_tokens(data.examples, micro_batches)
        for micro in mine(micro_batches):
            batch = _batch(policy, data.examples, micro)
            losses = LOSSES[config.loss](policy.token_logprobs(batch))
            losses.sum().div(tokens).backward()
            means.add({"loss": losses}, torch.ones_like(losses))
            speed.add(batch.tokens)
        values = means.result() | update(optimizer, config, step=step, total_steps=plan.total_steps)
        run.log(step, values | add_up(speed.result()))
        if held_out and run.due(config.eval_every, step):
            run.log_eval(step, evaluate(policy, held_out, eval_batches, loss=config.loss))
        run.end_step(step)

    write_samples(run, policy, tokenizer, step=run.total_steps, when="after")
    run.publish(
        save_result(policy, precision=config.precision, merged=config.merged),
        how_to_load=how_to_load(policy, kind="causal"),
        notes=[how_joined(policy.tokenizer, pair=False)],
    )


@torch.no_grad()
def evaluate(
    policy: TextModel, examples: Sequence[Example], micro_batches: Sequence[MicroBatch], *, loss: str
) -> dict[str, float]:
    """Mean loss over the answer tokens of held-out groups."""
    means = Means()
    for losses in shared(
        micro_batches, lambda micro: LOSSES[loss](policy.token_logprobs(_batch(policy, examples, micro)))
    ):
        means.add({"loss": losses}, torch.ones_like(losses))
    return means.result()


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    tokenizer = open_group_tokenizer(run.base, max_length=run.config.max_length)
    data = prepare(
        demonstrations(run.train, run.config),
        tokenizer,
        choose_answers(run.config),
        file=run.dir.train_file,
        needs=NEEDS[run.config.train_on],
    )
    return preview(data, tokenizer.tokenizer, joined=how_joined(tokenizer.tokenizer, pair=False))


def demonstrations(groups: list[Group], config: SFTConfig) -> list[Group]:
    """The rows that are trained on: the run's own, or what is made of their corrections or critiques."""
    if config.train_on == "rewrites":
        return as_demonstrations(groups, partial(rewrites_of, better=preferred(config)))
    if config.train_on == "critiques":
        return as_demonstrations(groups, partial(critiques_of, praise=config.praise))
    return groups


def preferred(config: SFTConfig) -> Callable[[Group], list[int]]:
    """The winners of a group's vote."""

    def winners(group: Group) -> list[int]:
        return _winners([vote for vote in group.judgements if vote.kind in VOTING_KINDS], config)

    return winners


def choose_answers(config: SFTConfig) -> Callable[[Group], tuple[list[Text], list[Pair]]]:
    """The answers of a group that are trained on; Unusable, with the reason, if there are none."""

    def choose(group: Group) -> tuple[list[Text], list[Pair]]:
        answers = texts_of(group)
        if not answers:
            raise Unusable("no answer")
        votes = [judgement for judgement in group.judgements if judgement.kind in VOTING_KINDS]
        if config.train_on == "preferred" and votes:
            answers = _corrections(votes) or [answers[index] for index in _winners(votes, config)]
        return _different(answers), []

    return choose


def _corrections(votes: Sequence[Judgement]) -> list[Text]:
    return [text for judgement in votes for text in judgement.corrections or [] if text is not None]


def _winners(votes: Sequence[Judgement], config: SFTConfig) -> list[int]:
    """The candidates with the most votes: choices, first places, thumbs up (down counts against)."""
    points: Counter[int] = Counter()
    for judgement in votes:
        if isinstance(judgement.choice, int):
            points[judgement.choice] += 1
        elif judgement.ranking:
            points.update(judgement.ranking[0])
        for index, thumb in enumerate(judgement.thumbs or []):
            if thumb is not None:
                points[index] += 1 if thumb else -1
    most = max(points.values(), default=0)
    if most <= 0:
        raise Unusable("no answer is preferred")
    winners = sorted(index for index, count in points.items() if count == most)
    if len(winners) > 1 and config.ties == "drop":
        raise Unusable("the vote is tied")
    return winners


def _different(answers: Sequence[Text]) -> list[Text]:
    """Each answer once, in order."""
    return list({str(answer): answer for answer in answers}.values())


def answer_tokens(examples: Sequence[Example], micro_batches: Sequence[MicroBatch]) -> int:
    """Answer tokens of a step: what its loss is divided by, however it is split."""
    chosen = (examples[index].tokens for micro in micro_batches for index in micro)
    return sum(len(answer) for tokens in chosen for answer in tokens.answers)


def _batch(policy: TextModel, examples: Sequence[Example], micro: MicroBatch) -> GroupBatch:
    return make_batch([examples[index].tokens for index in micro], causal=True, device=policy.device)
