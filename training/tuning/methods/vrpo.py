"""Variance-reduced preference optimisation (Ye et al., arXiv:2504.03784): people's choices, steadied by a
judge.

1. Pairs that people judged, with the share of judges' votes on the same pair; and further pairs of the
prompt's
   answers, which should come from the reference, that only judges saw.
2. The reference is the model as it starts.
3. Per step: over people's pairs the mean of the loss of their preference less that of the judges'; over the
   others the mean of the judges' expected loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.tuning.config import PairKeys, VRPOConfig
from training.tuning.data import Group, Text
from training.tuning.losses.mixtures import expected_loss, vrpo_loss
from training.tuning.metrics import Means, pair_metrics
from training.tuning.pairs import Pair, make_pairs
from training.tuning.plan import MicroBatch
from training.tuning.processes import add_up, mine
from training.tuning.run import Run
from training.tuning.text.dataset import Choose, Example, texts_of
from training.tuning.text.direct import Direct, inspect_direct
from training.tuning.text.tokens import Unusable

NEEDS = "a pair that people and a judge compared, and another pair that a judge compared"


@dataclass(frozen=True)
class Opinions:
    """Shares of votes for the first of a pair: people's (None if none judged it), and judges'."""

    people: float | None
    judges: float


def train(run: Run) -> None:
    """Train a policy on people's and judges' preferences. See the module for the steps."""
    config: VRPOConfig = run.config
    work = Direct(run, choose(config), needs=NEEDS, reference=config.reference)

    def measure(
        micro: MicroBatch, source: str, counts: tuple[int, int]
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        values, _ = work.read_pairs(micro, source=source)
        examples = [(work.examples if source == "train" else work.held_out)[index] for index in micro]
        found = [one for example in examples for one in opinions(example, config)]
        judged = values.chosen.new_tensor([one.judges for one in found])
        people = values.chosen.new_tensor([one.judges if one.people is None else one.people for one in found])
        asked = values.chosen.new_tensor([one.people is not None for one in found])
        sides = values.chosen, values.rejected
        steadied = vrpo_loss(*sides, people, judged, beta=config.beta)
        expected = expected_loss(*sides, judged, beta=config.beta)
        total = (asked * steadied).sum() / counts[0] + ((1 - asked) * expected).sum() / counts[1]
        rewards = [config.beta * side.detach() for side in sides]
        plain = expected_loss(*sides, people, beta=config.beta)
        return total, {"loss/people": plain} | pair_metrics(rewards[0], rewards[1], people), asked

    for step in work.begin():
        means = Means()
        micro_batches = work.plan.step(step)
        counts = count([work.examples[index] for micro in micro_batches for index in micro], config)
        total_loss = 0.0
        for micro in mine(micro_batches):
            total, metrics, asked = measure(micro, "train", counts)
            total.backward()
            total_loss += float(total.detach())
            means.add(metrics, asked)
        # One value for the whole step, on every process.
        means.add({"loss": torch.tensor([add_up({"loss": total_loss})["loss"]])}, torch.ones(1))
        work.end_step(step, means, lambda: work.evaluate(lambda m, s: measure(m, s, (1, 1))[1:]))
    work.finish()


def opinions(example: Example, config: VRPOConfig) -> list[Opinions]:
    """What people and judges said of each of an example's pairs."""
    people, judges = shares(example.group, config, judges=False), shares(example.group, config, judges=True)
    return [
        Opinions(people.get((pair.chosen, pair.rejected)), judges[pair.chosen, pair.rejected])
        for pair in example.pairs
    ]


def shares(group: Group, config: VRPOConfig, *, judges: bool) -> dict[tuple[int, int], float]:
    """The share of votes for the first of two candidates, by judges or by people; for both orders."""
    weights = {"annotator_weights": config.annotator_weights, "row_weights": config.row_weights}
    keys = PairKeys(pairs="soft", ties="half", both_bad="half", **weights)
    found = {}
    for pair in make_pairs(group, keys, only=lambda judgement: (judgement.kind == "judge") == judges):
        found[pair.chosen, pair.rejected] = pair.target
        found[pair.rejected, pair.chosen] = 1 - pair.target
    return found


def count(examples: Sequence[Example], config: VRPOConfig) -> tuple[int, int]:
    """How many pairs people judged, and how many only judges did; at least 1 each, to divide by."""
    asked = [one.people is not None for example in examples for one in opinions(example, config)]
    return max(1, sum(asked)), max(1, len(asked) - sum(asked))


def choose(config: VRPOConfig) -> Choose:
    """All candidates of a group, and the pairs that judges compared; people must have compared one."""

    def chosen(group: Group) -> tuple[list[Text], list[Pair]]:
        people, judges = shares(group, config, judges=False), shares(group, config, judges=True)
        pairs = [Pair(first, second) for first, second in sorted(judges) if first < second]
        asked = [(pair.chosen, pair.rejected) in people for pair in pairs]
        if not people:
            raise Unusable("no choice or ranking by people")
        if sum(asked) * 2 < len(people):
            raise Unusable("a pair that people judged has no judge's opinion")
        if all(asked):
            raise Unusable("no further pair with a judge's opinion")
        return texts_of(group), pairs

    return chosen


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    return inspect_direct(run, choose(run.config), needs=NEEDS)
