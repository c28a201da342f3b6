"""Direct preference optimisation (Rafailov et al., arXiv:2305.18290).

1. Tokenise the groups, make pairs of their judgements, and plan the micro-batches.
2. The reference is the model as it starts: the fresh adapter switched off, or a copy of what is trained. Its
   log-probabilities are computed once, in the micro-batches of the plan, or live before each step.
3. Per step: log-ratios of all candidates, the loss of every pair, the mean over the pairs' weights. Losses
   that couple the pairs of a batch (AOT, BCO, group robustness) are computed once for the whole of it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from training.tuning.config import DPOConfig
from training.tuning.config.direct import OF_WHOLE_BATCH
from training.tuning.losses.group_robust import group_robust_loss, step_group_weights
from training.tuning.metrics import Means
from training.tuning.pairs import Apart
from training.tuning.plan import MicroBatch
from training.tuning.processes import mine, shared
from training.tuning.run import Run
from training.tuning.text.dataset import Choose, Example, choose_pairs
from training.tuning.text.direct import Direct, inspect_direct
from training.tuning.text.guide import open_guide
from training.tuning.text.pairs import (
    PairIndex,
    PairValues,
    TokenWeights,
    index_pairs,
    join_values,
    pair_values,
    total_weight,
)
from training.tuning.text.preference import pair_losses
from training.tuning.text.token_weights import token_weights
from training.tuning.text.whole_batch import backward_whole

NEEDS = "a choice between two candidates or a ranking (or the columns prompt, chosen, rejected)"


def train(run: Run) -> None:
    """Train a policy on preferences. See the module for the steps."""
    config: DPOConfig = run.config
    work = Direct(run, choose(config), needs=NEEDS, reference=config.reference)
    weights = token_weights(config, guide=open_guide(run, [*work.examples, *work.held_out]))
    memory = start_memory(config, work.examples)
    sizes = group_sizes(work.examples)

    for step in work.begin(keep=memory):
        means = Means()
        micro_batches = work.plan.step(step)
        if config.loss in OF_WHOLE_BATCH or config.group_step:
            pairs = _index(work, [index for micro in micro_batches for index in micro])

            def objective(values: PairValues, pairs: PairIndex = pairs, means: Means = means) -> Tensor:
                remember_rewards(values, pairs, config, memory)
                losses, metrics = pair_losses(values, pairs, config, delta=shift(memory))
                means.add(metrics, pairs.weight)
                if config.group_step:
                    return group_objective(losses, pairs, sizes, config.group_step, memory)
                return (losses * pairs.weight).sum() / pairs.weight.sum()

            backward_whole(lambda micro: read(work, config, micro, weights), micro_batches, objective)
        else:
            weight = total_weight(work.examples, micro_batches)
            for micro in mine(micro_batches):
                pairs = _index(work, micro)
                losses, metrics = pair_losses(read(work, config, micro, weights), pairs, config)
                (losses * pairs.weight).sum().div(weight).backward()
                means.add(metrics, pairs.weight)
        work.end_step(step, means, lambda: evaluate(work, config, memory, weights))
    work.finish()


def evaluate(
    work: Direct, config: Any, memory: dict[str, Tensor], weights: TokenWeights | None
) -> dict[str, float]:
    """The training metrics on held-out groups, all of them as one batch."""
    values = join_values(
        shared(work.eval_batches, lambda micro: read(work, config, micro, weights, source="eval"))
    )
    pairs = index_pairs(work.held_out, device=work.policy.device)
    means = Means()
    means.add(pair_losses(values, pairs, config, delta=shift(memory))[1], pairs.weight)
    return means.result()


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    return inspect_direct(run, choose(run.config), needs=NEEDS)


def choose(config: Any) -> Choose:
    """All candidates of a group, and its pairs; votes of other strength or groups apart where needed."""
    apart: list[Apart] = ["strength"] if config.margin else []
    return choose_pairs(config, apart=[*apart, "annotator_group"] if config.group_step else apart)


def read(
    work: Direct, config: Any, micro: MicroBatch, weights: TokenWeights | None, *, source: str = "train"
) -> PairValues:
    """The values of the pairs of a micro-batch."""
    reading = work.read(micro, source=source, log_sum_squares=config.on_policy_weighting)
    return pair_values(
        reading.policy,
        reading.reference,
        reading.examples,
        log_sum_squares=reading.log_sum_squares,
        token_weights=weights,
    )


def _index(work: Direct, indices: Sequence[int]) -> PairIndex:
    return index_pairs([work.examples[index] for index in indices], device=work.policy.device)


# What losses remember from step to step


def start_memory(config: Any, examples: Sequence[Example]) -> dict[str, Tensor]:
    """Weights of the annotator groups (G,), or sum and weight of the rewards so far (2,)."""
    if config.group_step:
        groups = len(group_sizes(examples))
        return {"group_weights": torch.full((groups,), 1 / groups)}
    return {"rewards": torch.zeros(2)} if config.loss == "bco_pair" else {}


def remember_rewards(values: PairValues, pairs: PairIndex, config: Any, memory: dict[str, Tensor]) -> None:
    """Add the rewards of a batch, of both sides alike, to BCO's running mean."""
    if "rewards" in memory:
        rewards = config.beta * (values.chosen + values.rejected).detach()
        memory["rewards"] += torch.stack([(rewards * pairs.weight).sum(), 2 * pairs.weight.sum()]).cpu()


def shift(memory: dict[str, Tensor]) -> float:
    """δ of BCO: the mean of all rewards so far."""
    total, weight = memory.get("rewards", torch.zeros(2)).tolist()
    return total / weight if weight else 0.0


def group_sizes(examples: Sequence[Example]) -> dict[str | None, float]:
    """Votes of each annotator group in the data, in a fixed order."""
    sizes: dict[str | None, float] = {}
    for pair in (pair for example in examples for pair in example.pairs):
        sizes[pair.annotator_group] = sizes.get(pair.annotator_group, 0.0) + pair.weight
    return dict(sorted(sizes.items(), key=lambda item: item[0] or ""))


def group_objective(
    losses: Tensor,
    pairs: PairIndex,
    sizes: dict[str | None, float],
    step_size: float,
    memory: dict[str, Tensor],
) -> Tensor:
    """Σ_g α_g L_g with L_g = (N / N_g) · the group's share of the batch's mean loss; α is moved first."""
    share = losses * pairs.weight / pairs.weight.sum()
    total = sum(sizes.values())
    of_group = [
        torch.stack(
            [share[at] for at, name in enumerate(pairs.groups) if name == group] or [share.new_zeros(())]
        )
        for group in sizes
    ]
    group_losses = torch.stack(
        [part.sum() * total / size for part, size in zip(of_group, sizes.values(), strict=True)]
    )
    weights = memory["group_weights"]
    weights.copy_(step_group_weights(weights.to(group_losses), group_losses, step_size=step_size))
    return group_robust_loss(weights.to(group_losses), group_losses)
