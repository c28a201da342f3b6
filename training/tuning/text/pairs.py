"""Pairs of a batch as tensors, and what their losses are computed from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from training.tuning.losses.wpo import on_policy_weight
from training.tuning.pairs import Pair
from training.tuning.plan import MicroBatch
from training.tuning.text.dataset import Example

# The weights of the tokens of both answers of a pair, chosen and rejected.
TokenWeights = Callable[[Example, Pair], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PairIndex:
    """B pairs: which candidates of the batch, and the numbers of ``training.tuning.pairs.Pair``."""

    chosen: Int[Tensor, " B"]
    rejected: Int[Tensor, " B"]
    weight: Float[Tensor, " B"]
    target: Float[Tensor, " B"]
    tie: Float[Tensor, " B"]
    strength: Float[Tensor, " B"]
    groups: tuple[str | None, ...]


@dataclass(frozen=True)
class PairValues:
    """What the losses of B pairs read.

    ``chosen`` and ``rejected`` are the log-ratios of policy to reference, or, for methods without a
    reference, the policy's log-probabilities; ``reference_…`` the reference's log-probabilities, or 0. All
    are sums over the answers' tokens, with the tokens' weights if there are any. ``…_tokens`` are numbers of
    tokens, ``…_weight`` on-policy weights (1 if nobody asked).
    """

    chosen: Float[Tensor, " B"]
    rejected: Float[Tensor, " B"]
    reference_chosen: Float[Tensor, " B"]
    reference_rejected: Float[Tensor, " B"]
    chosen_tokens: Float[Tensor, " B"]
    rejected_tokens: Float[Tensor, " B"]
    chosen_weight: Float[Tensor, " B"]
    rejected_weight: Float[Tensor, " B"]

    def leaf(self) -> "PairValues":
        """The same values, with log-ratios that collect gradients of their own."""
        return replace(
            self,
            chosen=self.chosen.detach().requires_grad_(True),
            rejected=self.rejected.detach().requires_grad_(True),
        )


def per_token(values: PairValues) -> PairValues:
    """The same values as means per token."""
    return replace(
        values,
        chosen=values.chosen / values.chosen_tokens,
        rejected=values.rejected / values.rejected_tokens,
        reference_chosen=values.reference_chosen / values.chosen_tokens,
        reference_rejected=values.reference_rejected / values.rejected_tokens,
    )


def both_ways(
    loss: Callable[..., Tensor], values: PairValues, pairs: PairIndex, **options: float
) -> Float[Tensor, " B"]:
    """target · ℓ(w, l) + (1 − target) · ℓ(l, w): soft labels and half ties weigh both directions."""
    forward = loss(values.chosen, values.rejected, **options)
    backward = loss(values.rejected, values.chosen, **options)
    return pairs.target * forward + (1 - pairs.target) * backward


def join_values(parts: Sequence[PairValues]) -> PairValues:
    """The pairs of several micro-batches, one after another."""
    return PairValues(
        **{one.name: torch.cat([getattr(part, one.name) for part in parts]) for one in fields(PairValues)}
    )


def index_pairs(examples: Sequence[Example], *, device: torch.device | str) -> PairIndex:
    """The pairs of groups that lie one after another in a batch."""
    chosen, rejected = [], []
    offset = 0
    for example in examples:
        chosen += [offset + pair.chosen for pair in example.pairs]
        rejected += [offset + pair.rejected for pair in example.pairs]
        offset += len(example.tokens.blocks)
    pairs = [pair for example in examples for pair in example.pairs]

    def numbers(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    return PairIndex(
        chosen=torch.tensor(chosen, dtype=torch.long, device=device),
        rejected=torch.tensor(rejected, dtype=torch.long, device=device),
        weight=numbers([pair.weight for pair in pairs]),
        target=numbers([pair.target for pair in pairs]),
        tie=numbers([pair.tie for pair in pairs]),
        strength=numbers([pair.strength for pair in pairs]),
        groups=tuple(pair.annotator_group for pair in pairs),
    )


def pair_values(
    policy: Float[Tensor, " C"],
    reference: Float[Tensor, " C"],
    examples: Sequence[Example],
    *,
    log_sum_squares: Float[Tensor, " C"] | None = None,
    token_weights: TokenWeights | None = None,
) -> PairValues:
    """The values of all pairs of examples, from the log-probabilities of their answers' tokens.

    The log-ratio is taken token by token before anything is summed: it is exactly 0 where policy and
    reference agree, and loses nothing to the size of the sums.
    """
    counts = [len(answer) for example in examples for answer in example.tokens.answers]
    lengths = torch.tensor(counts, dtype=policy.dtype, device=policy.device)
    weights = torch.ones_like(lengths)
    if log_sum_squares is not None:
        parts = zip(policy.detach().split(counts), log_sum_squares.split(counts), strict=True)
        weights = torch.stack([on_policy_weight(*part) for part in parts])
    pairs = index_pairs(examples, device=policy.device)
    chosen, rejected = side_sums(policy - reference, examples, token_weights)
    reference_chosen, reference_rejected = side_sums(reference, examples, token_weights)
    return PairValues(
        chosen=chosen,
        rejected=rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
        chosen_tokens=lengths[pairs.chosen],
        rejected_tokens=lengths[pairs.rejected],
        chosen_weight=weights[pairs.chosen],
        rejected_weight=weights[pairs.rejected],
    )


def side_sums(
    values: Float[Tensor, " C"], examples: Sequence[Example], token_weights: TokenWeights | None = None
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Sums of a value of every answer token over the chosen and the rejected answer of each pair."""
    parts = values.split([len(answer) for example in examples for answer in example.tokens.answers])
    sums: dict[str, list[Tensor]] = {"chosen": [], "rejected": []}
    offset = 0
    for example in examples:
        for pair in example.pairs:
            weights = token_weights(example, pair) if token_weights else (None, None)
            for side, weight in zip(sums, weights, strict=True):
                part = parts[offset + getattr(pair, side)]
                sums[side].append(part.sum() if weight is None else (part * weight.to(part)).sum())
        offset += len(example.tokens.blocks)
    return torch.stack(sums["chosen"]), torch.stack(sums["rejected"])


def total_weight(examples: Sequence[Example], micro_batches: Sequence[MicroBatch]) -> float:
    """The weight of all pairs of a step: what its loss is divided by, however it is split."""
    return sum(pair.weight for micro in micro_batches for index in micro for pair in examples[index].pairs)


def sides(outputs: Tensor, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Outputs (B, T) of the chosen and the rejected of all pairs of examples."""
    chosen, rejected = [], []
    offset = 0
    for example in examples:
        chosen += [offset + pair.chosen for pair in example.pairs]
        rejected += [offset + pair.rejected for pair in example.pairs]
        offset += len(example.tokens.blocks)
    places = torch.tensor([chosen, rejected], dtype=torch.long, device=outputs.device)
    return outputs.index_select(0, places[0]), outputs.index_select(0, places[1])
