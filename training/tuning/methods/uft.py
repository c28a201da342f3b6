"""Unified fine-tuning (Wang et al., arXiv:2410.21438): demonstrations and feedback of any kind in one stage.

1. Score the answers from 0 to 1: ratings on their scale; thumbs and choices by the share of votes for the
   answer; demonstrations (answers nobody judged) and corrections 1.
2. The reference is the model as it starts, which should be the pretrained one.
3. Per step: the squared distance of σ(β log π/π_ref) to the score, the mean over the answers.
"""

from typing import Any

from torch import Tensor

from training.tuning.config import UFTConfig
from training.tuning.data import Group, Text
from training.tuning.labels import make_labels, make_scores
from training.tuning.losses.regression import uft_loss
from training.tuning.metrics import Means
from training.tuning.pairs import VOTING_KINDS, Pair
from training.tuning.plan import MicroBatch
from training.tuning.processes import mine
from training.tuning.run import Run
from training.tuning.text.dataset import Choose, texts_of
from training.tuning.text.direct import Direct, inspect_direct
from training.tuning.text.logprobs import per_candidate
from training.tuning.text.tokens import Unusable

NEEDS = "a demonstration, or an answer with a rating, a thumb or a choice"


def train(run: Run) -> None:
    """Train a policy on scored answers. See the module for the steps."""
    config: UFTConfig = run.config
    work = Direct(run, choose(config), needs=NEEDS, reference=config.reference)

    def measure(micro: MicroBatch, source: str = "train") -> tuple[dict[str, Tensor], Tensor]:
        reading = work.read(micro, source=source)
        log_ratio = per_candidate(reading.policy - reading.reference, reading.batch.counts)
        scores = [score for one in reading.examples for _, score in scored(one.group, config)]
        target = log_ratio.new_tensor(scores)
        losses = uft_loss(log_ratio, target, beta=config.beta)
        logged = {"loss": losses, "rewards/mean": config.beta * log_ratio, "scores": target}
        return logged, losses.new_ones(losses.shape)

    for step in work.begin():
        means = Means()
        micro_batches = work.plan.step(step)
        answers = sum(len(work.examples[index].tokens.blocks) for micro in micro_batches for index in micro)
        for micro in mine(micro_batches):
            metrics, weights = measure(micro)
            metrics["loss"].sum().div(answers).backward()
            means.add(metrics, weights)
        work.end_step(step, means, lambda: work.evaluate(measure))
    work.finish()


def scored(group: Group, config: UFTConfig) -> list[tuple[Text, float]]:
    """The answers of a group that have a score, and it."""
    texts = texts_of(group)
    votes = [judgement for judgement in group.judgements if judgement.kind in VOTING_KINDS]
    if not votes:
        return [(text, 1.0) for text in texts]
    corrections = [text for vote in votes for text in vote.corrections or [] if text is not None]
    shares = {label.candidate: label.good / (label.good + label.bad) for label in make_labels(group, config)}
    found = [(text, 1.0) for text in corrections]
    for at, rating in enumerate(make_scores(group, config)):
        score = rating if rating is not None else shares.get(at)
        if score is not None:
            found.append((texts[at], score))
    return found


def choose(config: UFTConfig) -> Choose:
    """The scored answers of a group."""

    def chosen(group: Group) -> tuple[list[Text], list[Pair]]:
        found = scored(group, config)
        if not found:
            raise Unusable("no answer has a score")
        return [text for text, _ in found], []

    return chosen


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    return inspect_direct(run, choose(run.config), needs=NEEDS)
