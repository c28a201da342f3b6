"""Token-level DPO (Zeng et al., arXiv:2404.11999), and losses built on the same two readings.

1. Tokenise the groups, make pairs of their judgements, and plan the micro-batches.
2. Per step, policy and reference read the batch: log-ratios of all answers' tokens, and for each of them the
   divergence of the next token's two distributions over the whole vocabulary.
3. Both are summed over the tokens, with the weights of marks, edits or lengths, or with masks that are learnt
   from the reference's states (SparsePO); then the loss of every pair, the mean over the pairs' weights.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.tuning.config import TDPOConfig
from training.tuning.losses.token_level import rrpo_loss, tdpo1_loss, tdpo2_loss
from training.tuning.metrics import Means
from training.tuning.plan import MicroBatch
from training.tuning.processes import mine
from training.tuning.run import Run
from training.tuning.text.dataset import choose_pairs
from training.tuning.text.direct import Direct, Reading, inspect_direct
from training.tuning.text.pairs import index_pairs, pair_values, side_sums, total_weight
from training.tuning.text.preference import measured
from training.tuning.text.token_weights import token_weights

NEEDS = "a choice between two candidates or a ranking (or the columns prompt, chosen, rejected)"


class TokenMasks(nn.Module):
    """Two masks of tokens, of the log-ratio and of the divergence: ReLU(linear(LN(h_ref))), arXiv:2410.05102.

    From the reference's last states; both start near 1.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, 2)
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.ones_(self.linear.bias)

    def forward(self, states: Float[Tensor, "C H"]) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """Masks (C,) from states (C, H), which get no gradient."""
        masks = torch.relu(self.linear(self.norm(states.detach().float())))
        return masks[:, 0], masks[:, 1]


def train(run: Run) -> None:
    """Train a policy on preferences. See the module for the steps."""
    config: TDPOConfig = run.config
    work = Direct(run, choose_pairs(config), needs=NEEDS, reference="live", companion=_masks(config))

    def measure(micro: MicroBatch, source: str = "train") -> tuple[dict[str, Tensor], Tensor]:
        reading, kl, states = work.read_divergence(micro, source=source)
        masks = work.companion(states) if work.companion is not None else None
        pairs = index_pairs(reading.examples, device=work.policy.device)
        return pair_metrics_of(reading, kl, config, masks=masks), pairs.weight

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


def pair_metrics_of(
    reading: Reading, kl: Tensor, config: Any, *, masks: tuple[Tensor, Tensor] | None = None
) -> dict[str, Tensor]:
    """Losses (B,) of the pairs of a reading, and what is logged beside them."""
    examples = reading.examples
    weigh = None if masks else token_weights(config)
    pairs = index_pairs(examples, device=kl.device)
    values = pair_values(reading.policy, reading.reference, examples, token_weights=weigh)
    sides, divergences = (values.chosen, values.rejected), side_sums(kl, examples, weigh)
    penalty = torch.zeros_like(values.chosen)
    if masks:
        sides = side_sums(masks[0] * (reading.policy - reading.reference), examples)
        divergences = side_sums(masks[1] * kl, examples)
        penalty = config.mask_penalty * _mean_mask(masks, reading)

    def loss(chosen: int, rejected: int) -> Tensor:
        ratios = sides[chosen], sides[rejected]
        if config.loss == "rrpo":
            return rrpo_loss(*ratios, divergences[chosen], beta=config.beta, alpha=config.alpha)
        drifts = divergences[chosen], divergences[rejected]
        if config.loss == "tdpo2":
            return tdpo2_loss(*ratios, *drifts, beta=config.beta, alpha=config.alpha)
        return tdpo1_loss(*ratios, *drifts, beta=config.beta)

    losses = pairs.target * loss(0, 1) + (1 - pairs.target) * loss(1, 0) + penalty
    logged = {"loss": losses, "kl/chosen": divergences[0], "kl/rejected": divergences[1]}
    return logged | measured(values, pairs, config.beta)


def _mean_mask(masks: tuple[Tensor, Tensor], reading: Reading) -> Tensor:
    """The mean mask per token of both answers (B,): the L1 norm, which is a sum because masks are not
    negative.
    """
    chosen, rejected = side_sums(masks[0] + masks[1], reading.examples)
    lengths = side_sums(torch.ones_like(masks[0]), reading.examples)
    return (chosen + rejected) / (lengths[0] + lengths[1])


def _masks(config: Any) -> Any:
    """What makes the masks' network for a width of states, if they are learnt."""
    return TokenMasks if config.loss == "sparse" else None


def inspect(run: Run) -> dict[str, Any]:
    """The data as ``train`` will see it."""
    return inspect_direct(run, choose_pairs(run.config), needs=NEEDS)
