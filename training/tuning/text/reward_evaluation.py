"""What held-out groups say of a reward model."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from training.tuning.calibration import Bin, calibration_error, fit_temperature, reliability
from training.tuning.config import PairKeys
from training.tuning.metrics import Means, accuracy, wilson
from training.tuning.pairs import make_pairs
from training.tuning.text.dataset import Example

# What most annotators said, whatever the config does with ties: a tied vote has no majority.
MAJORITY = PairKeys(pairs="majority", ties="half", both_bad="half")


class Evaluation:
    """Collects batches; ``values`` are what is logged under ``eval/``."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.means = Means()
        self.right = self.total = 0.0
        self.margins: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.weights: list[Tensor] = []

    def add_losses(self, losses: Tensor, weight: Tensor) -> None:
        """(B,) losses and weights of terms."""
        self.means.add({"loss": losses}, weight)

    def add_pairs(self, examples: Sequence[Example], chosen: Tensor, rejected: Tensor) -> None:
        """Scores (B,) of both sides of all pairs of examples."""
        pairs = [pair for example in examples for pair in example.pairs]
        margin = (chosen - rejected).double().cpu()
        target = margin.new_tensor([pair.target + pair.tie / 2 for pair in pairs])
        weight = margin.new_tensor([pair.weight for pair in pairs])
        self.means.add({"accuracy": accuracy(margin.float(), target.float())}, weight)
        for kept, values in ((self.margins, margin), (self.targets, target), (self.weights, weight)):
            kept.append(values)
        at = 0
        for example in examples:
            found = {}
            for pair in example.pairs:
                found[pair.chosen, pair.rejected] = float(margin[at])
                found[pair.rejected, pair.chosen] = -float(margin[at])
                at += 1
            self._add_majority(example, found)

    def _add_majority(self, example: Example, margins: dict[tuple[int, int], float]) -> None:
        for pair in make_pairs(example.group, MAJORITY):
            if pair.target != 0.5 and (pair.chosen, pair.rejected) in margins:
                margin = margins[pair.chosen, pair.rejected]
                self.right += 0.5 if margin == 0 else float(margin > 0)
                self.total += 1

    def add_ratings(self, ratings: Sequence[Sequence[float | None]], outputs: Tensor) -> None:
        """Of one group: what people gave its candidates, and the outputs (k, A). Pairs of candidates that
        differ in an attribute count for its accuracy.
        """
        for at, name in enumerate(self.names):
            right = []
            for one, other in combinations(range(len(ratings)), 2):
                first, second = ratings[one][at], ratings[other][at]
                if first is not None and second is not None and first != second:
                    agrees = (outputs[one, at] - outputs[other, at]) * (first - second)
                    right.append(0.5 if agrees == 0 else float(agrees > 0))
            if right:
                self.means.add({f"accuracy/{name}": torch.tensor(right)}, torch.ones(len(right)))

    def bins(self) -> list[Bin]:
        """Reliability of the margins as probabilities."""
        if not self.margins:
            return []
        return reliability(torch.cat(self.margins), torch.cat(self.targets), torch.cat(self.weights))

    def values(self) -> dict[str, float]:
        """Everything that is one number."""
        values = self.means.result()
        if self.total:
            low, high = wilson(self.right, self.total)
            majority = self.right / self.total
            values |= {"accuracy_majority": majority, "accuracy_low": low, "accuracy_high": high}
        if self.margins:
            values["ece"] = calibration_error(self.bins())
            if (temperature := self.temperature()) is not None:
                values["temperature"] = temperature
        return values

    def temperature(self) -> float | None:
        """What margins are to be divided by, to be probabilities."""
        if not self.margins:
            return None
        return fit_temperature(torch.cat(self.margins), torch.cat(self.targets), torch.cat(self.weights))
