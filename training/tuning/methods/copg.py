"""Contrastive policy gradient (Flet-Berliac et al., arXiv:2406.19185): rated answers from anywhere.

1. Score the answers from 0 to 1 by their ratings. Groups need two rated answers.
2. The reference is the model as it starts.
3. Per step: over all pairs of a group's k answers, ½ (R_β(y) − R_β(y'))² / (k − 1) with R_β the score less
   β log π/π_ref, the mean over groups. Its minimum is the reference tilted by exp(score / β), whoever wrote
   the answers.
"""

from typing import Any

import torch
from torch import Tensor

from training.tuning.config import CoPGConfig
from training.tuning.data import Group, Text
from training.tuning.labels import make_scores
from training.tuning.losses.regression import copg_loss
from training.tuning.metrics import Means
from training.tuning.pairs import Pair
from training.tuning.plan import MicroBatch
from training.tuning.processes import mine
from training.tuning.run import Run
from training.tuning.text.dataset import Choose, texts_of
from training.tuning.text.direct import Direct, inspect_direct
from training.tuning.text.logprobs import per_candidate
from training.tuning.text.tokens import Unusable

NEEDS = "two answers with ratings"


def train(run: Run) -> None:
    """Train a policy on rated answers. See the module for the steps."""
    config: CoPGConfig = run.config
    work = Direct(run, choose(config), needs=NEEDS, reference=config.reference)

    def measure(micro: MicroBatch, source: str = "train") -> tuple[dict[str, Tensor], Tensor]:
        reading = work.read(micro, source=source)
        log_ratio = per_candidate(reading.policy - reading.reference, reading.batch.counts)
        scores = [rated(one.group, config) for one in reading.examples]
        parts = log_ratio.split([len(one) for one in scores])
        losses = torch.stack(
            [
                group_loss(ratios, ratios.new_tensor([score for _, score in one]), beta=config.beta)
                for ratios, one in zip(parts, scores, strict=True)
            ]
        )
        rewards = torch.stack([config.beta * part.mean() for part in parts])
        return {"loss": losses, "rewards/mean": rewards}, torch.ones_like(losses)

    for step in work.begin():
        means = Means()
        micro_batches = work.plan.step(step)
        groups = sum(len(micro) for micro in micro_batches)
        for micro in mine(micro_batches):
            metrics, weights = measure(micro)
            metrics["loss"].sum().div(groups).backward()
            means.add(metrics, weights)
        work.end_step(step, means, lambda: work.evaluate(measure))
    work.finish()


def group_loss(log_ratio: Tensor, scores: Tensor, *, beta: float) -> Tensor:
    """The loss () of a group's k answers: over all pairs, by k − 1."""
    first, second = torch.combinations(torch.arange(len(scores), device=scores.device)).unbind(1)
    pairs = copg_loss(log_ratio[first], log_ratio[second], scores[first], scores[second], beta=beta)
    return pairs.sum() / (len(scores) - 1)


def rated(group: Group, config: CoPGConfig) -> list[tuple[Text, float]]:
    """The answers with ratings, and their scores."""
    scores = make_scores(group, config)
    return [(text, score) for text, score in zip(texts_of(group), scores, strict=True) if score is not None]


def choose(config: CoPGConfig) -> Choose:
    """The rated answers of a group."""

    def chosen(group: Group) -> tuple[list[Text], list[Pair]]:
        found = rated(group, config)
        if len(found) < 2:
            raise Unusable("fewer than two rated answers")
        return [text for text, _ in found], []

    return chosen


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    return inspect_direct(run, choose(run.config), needs=NEEDS)
