"""Self-exploring language models (Zhang et al., arXiv:2405.19332): DPO with optimism, the loss of one round.

1. Groups hold the judged answers and, as one more candidate, the greedy answer of the model that starts the
   round, which is also the reference.
2. Per step: the DPO loss of every pair, the mean over the pairs' weights, plus αβ times the greedy answers'
   log-ratios, the mean over the groups that have one. What the model would say anyway is pushed down, so that
   its next answers explore.
"""

from typing import Any

from torch import Tensor

from training.tuning.config import SELMConfig
from training.tuning.losses.dpo import dpo_loss
from training.tuning.losses.mixtures import selm_bonus
from training.tuning.metrics import Means
from training.tuning.plan import MicroBatch
from training.tuning.processes import mine
from training.tuning.run import Run
from training.tuning.text.dataset import Example, choose_pairs
from training.tuning.text.direct import Direct, inspect_direct
from training.tuning.text.logprobs import per_candidate
from training.tuning.text.pairs import both_ways, index_pairs, pair_values, total_weight
from training.tuning.text.preference import measured

NEEDS = "a choice between two candidates or a ranking (or the columns prompt, chosen, rejected)"


def train(run: Run) -> None:
    """Train a policy on preferences. See the module for the steps."""
    config: SELMConfig = run.config
    work = Direct(run, choose_pairs(config), needs=NEEDS, reference=config.reference)

    def measure(micro: MicroBatch, source: str = "train") -> tuple[dict[str, Tensor], Tensor, Tensor]:
        reading = work.read(micro, source=source)
        values = pair_values(reading.policy, reading.reference, reading.examples)
        pairs = index_pairs(reading.examples, device=work.policy.device)
        losses = both_ways(dpo_loss, values, pairs, beta=config.beta)
        ratios = per_candidate(reading.policy - reading.reference, reading.batch.counts)
        places = own_places(reading.examples, config.own_source)
        bonus = selm_bonus(ratios[places], beta=config.beta, alpha=config.alpha)
        return {"loss": losses} | measured(values, pairs, config.beta), pairs.weight, bonus

    for step in work.begin():
        means = Means()
        micro_batches = work.plan.step(step)
        weight = total_weight(work.examples, micro_batches)
        chosen = [work.examples[index] for micro in micro_batches for index in micro]
        own = max(1, len(own_places(chosen, config.own_source)))
        for micro in mine(micro_batches):
            metrics, weights, bonus = measure(micro)
            ((metrics["loss"] * weights).sum() / weight + bonus.sum() / own).backward()
            means.add(metrics, weights)
            means.add({"bonus": bonus}, bonus.new_ones(bonus.shape))
        work.end_step(step, means, lambda: work.evaluate(lambda m, s: measure(m, s)[:2]))
    work.finish()


def own_places(examples: list[Example], source: str) -> list[int]:
    """Where the model's own greedy answers lie among the candidates of a batch: the first of each group."""
    places, offset = [], 0
    for example in examples:
        own = [at for at, one in enumerate(example.group.candidates) if one.source == source]
        places += [offset + at for at in own[:1]]
        offset += len(example.group.candidates)
    return places


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    return inspect_direct(run, choose_pairs(run.config), needs=NEEDS)
