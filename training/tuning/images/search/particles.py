"""Feynman-Kac steering: particles that multiply where the reward grows. arXiv:2501.06848.

1. k particles of one prompt are denoised together.
2. At chosen steps each gets a potential from the reward of the picture that it points at, and particles are
   drawn anew in proportion to their weights.
3. However the potentials spread the reward over the steps, their product is exp(λ r(x_0)): what is sampled
   in the limit of many particles is p(x_0) exp(λ r(x_0)).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.images.search.walk import Chosen, Latents, Score, Walk, rows_of, taken

Values = Float[Tensor, " N"]


@dataclass
class Lineages:
    """What the particles (N,) have behind them: ``log_weights`` since they were last drawn anew, ``spent``
    the sum of all their log-potentials, and the rewards seen: ``last``, ``best`` and ``total``.
    """

    log_weights: Values
    spent: Values
    last: Values
    best: Values
    total: Values

    @classmethod
    def fresh(cls, count: int, like: Tensor) -> "Lineages":
        """Nothing seen: a reward of 0 until then."""
        zero = torch.zeros(count, device=like.device, dtype=torch.float64)
        return cls(zero, zero, zero, torch.full_like(zero, -torch.inf), zero)

    def weigh(self, log_potentials: Values, rewards: Values) -> None:
        """Multiply the weights by these potentials, which these rewards gave."""
        self.log_weights = self.log_weights + log_potentials
        self.spent = self.spent + log_potentials
        self.last, self.total = rewards, self.total + rewards
        self.best = torch.maximum(self.best, rewards)

    def effective(self) -> float:
        """How many equally weighted particles they are worth: (Σw)² / Σw²."""
        weights = self.log_weights.softmax(dim=0)
        return float(1 / weights.square().sum())

    def resample(self, generator: torch.Generator) -> Tensor:
        """Draw particles in proportion to their weights, which are then equal; returns who survived."""
        probabilities = self.log_weights.softmax(dim=0).cpu()
        chosen = torch.multinomial(probabilities, len(probabilities), replacement=True, generator=generator)
        chosen = chosen.to(self.log_weights.device)
        for name in ("spent", "last", "best", "total"):
            setattr(self, name, getattr(self, name)[chosen])
        self.log_weights = torch.zeros_like(self.log_weights)
        return chosen


def difference(rewards: Values, seen: Lineages, strength: float) -> Values:
    """λ (r_t − r_before)."""
    return strength * (rewards - seen.last)


def highest(rewards: Values, seen: Lineages, strength: float) -> Values:
    """λ max(r_t, all before)."""
    return strength * torch.maximum(rewards, seen.best)


def summed(rewards: Values, seen: Lineages, strength: float) -> Values:
    """λ Σ r up to now."""
    return strength * (seen.total + rewards)


POTENTIALS: dict[str, Callable[[Values, Lineages, float], Values]] = {
    "difference": difference,
    "max": highest,
    "sum": summed,
}


@dataclass(frozen=True)
class Steered:
    """Particles at the end: pictures, their rewards, and log-weights that are still to be counted."""

    latents: Latents
    rewards: Values
    log_weights: Values

    @property
    def best(self) -> Chosen:
        """The picture with the highest reward, (1, …)."""
        at = int(self.rewards.argmax())
        return self.latents[at : at + 1]


@torch.no_grad()
def steer(
    walk: Walk,
    score: Score,
    latents: Latents,
    *,
    at: Collection[int],
    potential: str,
    strength: float,
    adaptive: bool,
    generator: torch.Generator,
) -> Steered:
    """Denoise N particles, weighed before the steps ``at`` and at the end.

    ``adaptive`` draws particles anew only when fewer than N/2 effective ones are left; until then their
    weights are carried on, never dropped.
    """
    seen = Lineages.fresh(len(latents), latents)
    for index in range(walk.steps):
        proposal = walk.propose(latents, index)
        if index in at:
            rewards = score(proposal.clean).double()
            seen.weigh(POTENTIALS[potential](rewards, seen, strength), rewards)
            if not adaptive or seen.effective() < len(latents) / 2:
                proposal = rows_of(proposal, seen.resample(generator))
        latents = taken(proposal, generator)
    rewards = score(latents).double()
    # Whatever was given on the way, all potentials of a lineage multiply to exp(λ r(x_0)).
    seen.weigh(strength * rewards - seen.spent, rewards)
    return Steered(latents, rewards, seen.log_weights)
