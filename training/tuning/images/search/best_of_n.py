"""Best of n noises; those that do not promise much are given up on the way (TTSnap)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.images.search.walk import Chosen, Latents, Score, Walk, rows_of, taken
from training.tuning.images.trajectories import Generators


@dataclass(frozen=True)
class Cut:
    """After ``calls`` calls of the denoiser, the best ``share`` of what is left goes on."""

    calls: int
    share: float


@torch.no_grad()
def best_of_n(
    walk: Walk,
    score: Score,
    latents: Latents,
    *,
    cuts: Sequence[Cut] = (),
    generators: Generators,
    promise: Callable[[Tensor, int], Tensor] | None = None,
) -> Chosen:
    """The picture of N starting noises (N, …) with the highest final score, (1, …).

    At a cut the pictures that the denoiser points at are scored, in one call of ``score``, so that scores
    relative to one another (``rank_sum``) work too. At least one goes on. ``promise(clean, calls)`` scores
    them in place of ``score``, if what is unfinished is judged by something else.
    """
    shares = {cut.calls - 1: cut.share for cut in cuts}
    for index in range(walk.steps):
        proposal = walk.propose(latents, index)
        if index in shares and len(latents) > 1:
            clean = proposal.clean
            found = score(clean) if promise is None else promise(clean, index + 1)
            kept = found.topk(kept_of(len(latents), shares[index])).indices.sort().values
            proposal = rows_of(proposal, kept)
        latents = taken(proposal, generators)
    if len(latents) == 1:
        return latents
    best = int(score(latents).argmax())
    return latents[best : best + 1]


def kept_of(count: int, share: float) -> int:
    """How many of ``count`` go on."""
    return max(1, math.floor(count * share + 1e-9))


def rank_sum(parts: Float[Tensor, "N E"]) -> Float[Tensor, " N"]:
    """The sum over rewards of each candidate's rank, 0 the worst; equal values share their mean rank.

    With ranks no reward can outweigh the others by its scale (TTSnap's rule for several rewards).
    """
    below = (parts[:, None] > parts[None]).sum(dim=1)
    equal = (parts[:, None] == parts[None]).sum(dim=1)
    return (below + (equal - 1) / 2).sum(dim=1)
