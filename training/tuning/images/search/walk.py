"""What a search needs of a denoising chain: where each step may go."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.images.schedules import Sampler
from training.tuning.images.trajectories import Denoise, Generators, Proposal, draw_noise, step

Latents = Float[Tensor, "N *D"]
Chosen = Float[Tensor, "M *D"]  # of N latents some, mostly one
Score = Callable[[Latents], Float[Tensor, " N"]]  # of clean latents; higher is better


@dataclass(frozen=True)
class Walk:
    """``steps`` transitions from noise to a picture; ``propose`` gives the Gaussian of one from some latents.

    Rows do not see one another, so that their number may change on the way.
    """

    propose: Callable[[Tensor, int], Proposal]
    steps: int

    @classmethod
    def of(cls, denoise: Denoise, sampler: Sampler) -> "Walk":
        """The sampler's own steps."""
        return cls(partial(step, denoise, sampler), sampler.steps)

    def draw(self, latents: Latents, *, generators: Generators, first: int = 0) -> Latents:
        """Walk to the end; ``latents`` stand before step ``first``."""
        for index in range(first, self.steps):
            latents = taken(self.propose(latents, index), generators)
        return latents


def taken(proposal: Proposal, generators: Generators) -> Latents:
    """A draw from the proposal; a deterministic step takes nothing from the generators."""
    return proposal.draw(draw_noise(proposal.mean, generators) if proposal.std > 0 else None)


def rows_of(proposal: Proposal, rows: Tensor) -> Proposal:
    """The proposals of some of the latents."""
    return replace(proposal, mean=proposal.mean[rows], clean=proposal.clean[rows], noise=proposal.noise[rows])


def one_generator(seed: int) -> torch.Generator:
    """On the CPU, so that a seed means the same on every device."""
    return torch.Generator().manual_seed(seed)
