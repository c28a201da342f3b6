"""How much better: an ordinal model of the strength of preferences."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def ordinal_loss(
    margin: Float[Tensor, " B"], level: Int[Tensor, " B"], cuts: Float[Tensor, " L"]
) -> Float[Tensor, " B"]:
    """−log P(level) of the cumulative-link model (McCullagh 1980), symmetric about 0.

    ``margin`` is d, the first score less the second; ``level`` is from −L (the second is much better) over
    0 (a tie) to L. ``cuts`` are 0 < c_1 < … < c_L: on the line of d plus logistic noise the level is 0
    within c_1 of zero, 1 between c_1 and c_2, …, so that

        P(level ≥ s) = σ(d − c_s),   P(−s < level < s) = σ(c_s − d) − σ(−c_s − d).

    Returns (B,).
    """
    infinite = cuts.new_full((1,), float("inf"))
    upper = torch.cat([-cuts.flip(0), cuts, infinite])  # of level −L … L
    lower = torch.cat([-infinite, -cuts.flip(0), cuts])
    place = level + len(cuts)
    above, below = upper[place] - margin, lower[place] - margin
    # σ(a) − σ(b) = σ(a) σ(−b) (1 − e^{b − a})
    gap = -torch.expm1((lower - upper)[place])
    return -F.logsigmoid(above) - F.logsigmoid(-below) - gap.log()
