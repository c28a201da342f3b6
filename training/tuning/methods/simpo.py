"""SimPO (Meng et al., arXiv:2405.14734): the mean log-probability per token as reward, with a margin.

1. Tokenise the groups, make pairs of their judgements, and plan the micro-batches. There is no reference.
2. Per step: mean log-probabilities per token of all answers, the loss of every pair, the mean over the pairs'
   weights.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from training.tuning.config import SimPOConfig
from training.tuning.losses.reference_free import alphapo_reward, simpo_loss
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
    config: SimPOConfig = run.config
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
    values = per_token(values)
    metrics = measured(values, pairs, config.beta)
    nll = -pairs.target * values.chosen - (1 - pairs.target) * values.rejected
    if config.loss == "alphapo":
        chosen, rejected = (
            alphapo_reward(side, alpha=config.alpha) for side in (values.chosen, values.rejected)
        )
        values = replace(values, chosen=chosen, rejected=rejected)
    options = {"beta": config.beta, "gamma": config.gamma, "label_smoothing": config.label_smoothing}
    losses = both_ways(simpo_loss, values, pairs, **options) + config.nll_weight * nll
    return {"loss": losses} | metrics


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    return inspect_direct(run, choose_pairs(run.config), needs=NEEDS)
