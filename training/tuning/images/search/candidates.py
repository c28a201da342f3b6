"""Candidate search at every step: soft value-based decoding (SVDD). arXiv:2408.08252."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from training.tuning.images.search.walk import Latents, Score, Walk, rows_of, taken


@torch.no_grad()
def search_candidates(
    walk: Walk,
    score: Score,
    latents: Latents,
    *,
    count: int,
    temperature: float,
    generator: torch.Generator,
) -> Latents:
    """Denoise (N, …); of ``count`` next states that the walk proposes one is taken, by its value.

    The value of x_{t-1} is the score of the picture that it points at (SVDD-PM), and the probability to be
    taken softmax(value / temperature); temperature 0 takes the best, as the authors' code does. The last
    transition is not selected, and a deterministic one proposes one state only.
    """
    proposal = walk.propose(latents, 0)
    for index in range(walk.steps - 1):
        if count == 1 or proposal.std == 0:
            proposal = walk.propose(taken(proposal, generator), index + 1)
            continue
        one_each = torch.arange(len(latents), device=latents.device)
        following = taken(rows_of(proposal, one_each.repeat_interleave(count)), generator)
        ahead = walk.propose(following, index + 1)
        values = score(ahead.clean).view(len(latents), count)
        chosen = choose(values, temperature=temperature, generator=generator)
        proposal = rows_of(ahead, chosen + count * one_each)
    return taken(proposal, generator)


def choose(
    values: Float[Tensor, "N M"], *, temperature: float, generator: torch.Generator
) -> Int[Tensor, " N"]:
    """One of M for each row: by softmax(values / temperature), or the highest at temperature 0."""
    if temperature == 0:
        return values.argmax(dim=1)
    probabilities = (values.double() / temperature).softmax(dim=1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(values.device)
