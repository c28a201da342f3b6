"""Contrastive preference optimisation (Xu et al., arXiv:2401.08417): DPO without a reference, and imitation.

1. Tokenise the groups, make pairs of their judgements, and plan the micro-batches. There is no reference.
2. Per step: log-probabilities of all answers, the loss of every pair, the mean over the pairs' weights.
"""

from typing import Any

from torch import Tensor

from training.tuning.config import CPOConfig
from training.tuning.losses.dpo import hinge_loss, ipo_loss
from training.tuning.losses.reference_free import cpo_loss
from training.tuning.metrics import Means
from training.tuning.plan import MicroBatch
from training.tuning.processes import mine
from training.tuning.run import Run
from training.tuning.text.dataset import choose_pairs
from training.tuning.text.direct import Direct, inspect_direct
from training.tuning.text.pairs import PairIndex, PairValues, both_ways, per_token, total_weight
from training.tuning.text.preference import measured

NEEDS = "a choice between two candidates or a ranking (or the columns prompt, chosen, rejected)"


def train(run: Run) -> None:
    """Train a policy on preferences. See the module for the steps."""
    config: CPOConfig = run.config
    work = Direct(run, choose_pairs(config), needs=NEEDS, reference=None)

    def measure(micro: MicroBatch, source: str = "train") -> tuple[dict[str, Tensor], Tensor]:
        values, pairs = work.read_pairs(micro, source=source)
        return pair_losses(values, pairs, config), pairs.weight

    for step in work.begin():
        means = Means()
        micro_batches = work.plan.step(step)
        weight = total_weight(work.examples, micro_batches)
        for micro in mine(micro_batches):
            metrics, weights = measure(micro)
            (metrics["loss"] * weights).sum().div(weight).backward()
            means.add(metrics, weights)
        work.end_step(step, means, lambda: work.evaluate(measure))
    work.finish()


def pair_losses(values: PairValues, pairs: PairIndex, config: Any) -> dict[str, Tensor]:
    """Losses (B,) of pairs, and what is logged beside them."""
    means = per_token(values)
    nll = -pairs.target * means.chosen - (1 - pairs.target) * means.rejected
    if config.loss == "sigmoid":
        options = {"beta": config.beta, "label_smoothing": config.label_smoothing}
        losses = both_ways(cpo_loss, values, pairs, **options)
    elif config.loss == "hinge":
        losses = both_ways(hinge_loss, values, pairs, beta=config.beta)
    else:
        losses = both_ways(ipo_loss, means, pairs, beta=config.beta)
    return {"loss": losses + config.nll_weight * nll} | measured(values, pairs, config.beta)


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    return inspect_direct(run, choose_pairs(run.config), needs=NEEDS)
