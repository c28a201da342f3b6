"""The variants of GRPO: what each token costs, how costs are averaged, and how rewards are scaled."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from training.tuning.losses.advantages import Scale
from training.tuning.losses.policy_gradient import (
    clipped_importance,
    clipped_surrogate,
    negative_aware,
    policy_gradient,
    prompt_weight,
    sequence_surrogate,
)
from training.tuning.losses.trust_region import trust_region_loss
from training.tuning.text.batches import GroupBatch
from training.tuning.text.logprobs import per_candidate
from training.tuning.text.models import TextModel


@dataclass(frozen=True)
class Part:
    """The answers of a micro-batch: N of them with C tokens. ``right`` and ``success`` are by answer: whether
    its reward is above one half, and for which share of its prompt's answers that holds. ``top`` are the old
    policy's likeliest tokens and their log-probabilities, for the trust region.
    """

    policy: TextModel
    batch: GroupBatch
    states: Float[Tensor, "C H"]
    logps: Float[Tensor, " C"]
    old: Float[Tensor, " C"]
    advantages: Float[Tensor, " N"]
    right: Bool[Tensor, " N"]
    success: Float[Tensor, " N"]
    top: tuple[Tensor, Tensor] | None = None

    @property
    def lengths(self) -> Tensor:
        return torch.tensor(self.batch.counts, device=self.logps.device)

    def spread(self, values: Tensor) -> Tensor:
        """A value of each answer, for each of its tokens."""
        return values.repeat_interleave(self.lengths)


@dataclass(frozen=True)
class Variant:
    """``mean``: over the ``tokens`` of a step, over each of its ``answers`` first, or a sum over a
    ``constant``: the number of answers times the longest that an answer may be.
    """

    loss: Callable[[Part, Any, float, float], Tensor]
    mean: Literal["answers", "tokens", "constant"] = "answers"
    scale: Scale = "group"
    low: float = 0.2
    high: float = 0.2


def _clipped(part: Part, config: Any, low: float, high: float) -> Tensor:
    return clipped_surrogate(part.logps, part.old, part.spread(part.advantages), low=low, high=high)


def _importance(part: Part, config: Any, low: float, high: float) -> Tensor:
    return clipped_importance(part.logps, part.old, part.spread(part.advantages), low=low, high=high)


def _sequence(part: Part, config: Any, low: float, high: float) -> Tensor:
    sums, old = (per_candidate(values, part.batch.counts) for values in (part.logps, part.old))
    return part.spread(
        sequence_surrogate(sums, old, part.lengths.to(sums.dtype), part.advantages, low=low, high=high)
    )


def _trust_region(part: Part, config: Any, low: float, high: float) -> Tensor:
    assert part.top is not None
    columns, old = part.top
    logp = part.policy.logprobs_of(part.states, columns, temperature=config.temperature)
    return trust_region_loss(
        logp.log_softmax(dim=1),
        old,
        torch.zeros(len(columns), dtype=torch.long, device=columns.device),
        part.spread(part.advantages),
        bound=config.trust_region,
    )


def _negative_aware(part: Part, config: Any, low: float, high: float) -> Tensor:
    weight = prompt_weight(part.success, kind="hard")
    mixed = (part.success > 0) & (part.success < 1)  # all right or all wrong teach nothing
    losses = negative_aware(
        part.logps, part.old, part.spread(part.right), part.spread(part.success), floor=1.0
    )
    return losses * part.spread(weight * mixed)


def _weighted_reinforce(part: Part, config: Any, low: float, high: float) -> Tensor:
    weight = torch.full_like(part.advantages, config.positive_weight)
    return policy_gradient(part.logps, part.spread(torch.where(part.right, weight, -torch.ones_like(weight))))


VARIANTS: dict[str, Variant] = {
    "grpo": Variant(_clipped),
    "dr_grpo": Variant(_clipped, mean="constant", scale="none"),
    "dapo": Variant(_clipped, mean="tokens", high=0.28),
    "gspo": Variant(_sequence, low=3e-4, high=4e-4),
    "cispo": Variant(_importance, mean="tokens", high=0.28),
    "troll": Variant(_trust_region),
    "nft": Variant(_negative_aware, mean="constant"),
    "w_reinforce": Variant(_weighted_reinforce, mean="tokens"),
}
