"""How well a picture moved as it should: MotionNFT's reward from optical flow (arXiv:2512.10284).

A flow (H, W, 2) says for every pixel of the first picture how far it is found away in the second, in pixels,
first to the right, then down.
"""

import math

from jaxtyping import Float
from torch import Tensor

Flow = Float[Tensor, "H W 2"]

FAR, TURNED, STILL = 0.7, 0.2, 0.1  # weights of the three errors
POWER, SMALLEST = 0.4, 1e-6  # of a displacement's error, and what is added to it
MOVES = 0.002  # of the diagonal: pixels that shall move less have no direction
LEAST = 0.01  # of the diagonal: how much motion is always asked for


def motion_error(flow: Flow, wanted: Flow) -> Float[Tensor, ""]:
    """0.7 · far + 0.2 · turned + 0.1 · still, of displacements F, G over the picture's diagonal.

    far: the mean of (|F - G| + 1e-6)^0.4 over pixels and axes, an end-point error in which small motion
    counts. turned: the mean of (1 - cos) / 2 where |G| > 0.002. still: relu(0.01 + ½ mean |G| - mean |F|),
    the guard against pictures in which nothing moved. As in the authors' code.
    """
    height, width, _ = flow.shape
    diagonal = math.hypot(height, width)
    found, asked = flow / diagonal, wanted / diagonal
    length, asked_length = found.norm(dim=2), asked.norm(dim=2)
    far = ((found - asked).abs() + SMALLEST).pow(POWER).mean()
    moves = asked_length > MOVES
    along = (found * asked).sum(dim=2) / (length.clamp(min=SMALLEST) * asked_length.clamp(min=SMALLEST))
    turned = ((1 - along.clamp(-1, 1)) / 2 * moves).sum() / moves.sum().clamp(min=1)
    still = (LEAST + 0.5 * asked_length.mean() - length.mean()).clamp(min=0)
    return FAR * far + TURNED * turned + STILL * still


def motion_reward(flow: Flow, wanted: Flow, *, levels: int | None = 5) -> float:
    """1 - (error - e) / (1 - e), within 0 and 1, e what ``far`` alone is of the flow that was asked for.

    Rounded to ``levels`` steps, as published, so that what flows are unsure about decides nothing; None: not.
    """
    least = SMALLEST**POWER
    reward = min(1.0, max(0.0, 1 - (float(motion_error(flow, wanted)) - least) / (1 - least)))
    return reward if levels is None else round(reward * levels) / levels
