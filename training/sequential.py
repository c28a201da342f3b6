"""Stopping a match as soon as it is decided: intervals that hold at every moment that one looks at them.

A fixed interval that is looked at again and again until it leaves out one half is wrong far more often than
it says. A confidence sequence is right at all times together, however the moment of stopping is chosen.
"""

import math
from collections.abc import Sequence
from typing import Final

MAX_BET: Final = 0.5  # λ is held below it: ψ_E would run away towards 1


def confidence_sequence(scores: Sequence[float], *, alpha: float = 0.05) -> tuple[float, float]:
    """(low, high) for the mean of scores in 0..1 that arrive in random order, valid at all times at once.

    The predictable plug-in empirical Bernstein confidence sequence of Waudby-Smith and Ramdas (Estimating
    means of bounded random variables by betting, arXiv:2010.09686, Theorem 2), intersected over time:
    λ_t = min(√(2 ln(2/α) / (σ̂²_{t-1} t ln(1+t))), ½), centre Σλx/Σλ, half-width
    (ln(2/α) + Σ 4(x_t - μ̂_{t-1})² ψ_E(λ_t)) / Σλ with ψ_E(λ) = (-ln(1-λ) - λ)/4. (0, 1) without scores.
    """
    level = math.log(2 / alpha)
    low, high = 0.0, 1.0
    total, squares, mean, variance = 0.5, 0.25, 0.5, 0.25  # one pretended score of a half, as in the paper
    bets = weighted = spread = 0.0
    for t, score in enumerate(scores, start=1):
        if not 0 <= score <= 1:
            raise ValueError(f"score {score} is not within 0 and 1")
        bet = min(math.sqrt(2 * level / (variance * t * math.log(1 + t))), MAX_BET)
        bets += bet
        weighted += bet * score
        spread += 4 * (score - mean) ** 2 * (-math.log1p(-bet) - bet) / 4
        centre, width = weighted / bets, (level + spread) / bets
        low, high = max(low, centre - width), min(high, centre + width)
        total += score
        mean = total / (t + 1)
        squares += (score - mean) ** 2
        variance = squares / (t + 1)
    return low, max(low, high)
