"""Which steps of a chain are drawn with noise, and trained, while a window moves over them."""

import math
import random
from typing import Literal

Order = Literal["progressive", "decaying", "random"]


def window_at(step: int, *, steps: int, size: int, every: int, order: Order, seed: int) -> range:
    """The window of training step ``step`` (from 1) over a chain's first ``steps`` steps (MixGRPO,
    arXiv:2507.21802).

    progressive: moves on by one after ``every`` steps, from the noisiest, and begins anew when it would
    pass the end. decaying: so, but stays for ⌈every · exp(-0.1 · max(l - 13, 0))⌉ at place l. random:
    anywhere, for as long.
    """
    places = steps - size + 1
    if order == "random":
        start = random.Random(f"{seed}/window/{(step - 1) // every}").randrange(places)
    elif order == "progressive":
        start = (step - 1) // every % places
    else:
        stays = [math.ceil(every * math.exp(-0.1 * max(place - 13, 0))) for place in range(places)]
        left, start = (step - 1) % sum(stays), 0
        while left >= stays[start]:
            left, start = left - stays[start], start + 1
    return range(start, start + size)
