"""Which steps of a chain are trained, while a window moves over them."""

import math
import random

from training.tuning.config.images_online import WindowKeys, WindowOrder
from training.tuning.errors import BadInput
from training.tuning.images.schedules import Sampler


def window_of(step: int, sampler: Sampler, config: WindowKeys, *, seed: int) -> range:
    """The window of training step ``step`` (from 1) over the steps with noise: all of them without one.

    Raises BadInput for a window that is longer than the chain.
    """
    steps = len(sampler.stochastic)
    if config.window is None:
        return range(steps)
    if config.window > steps:
        problem = f"the chain has {steps} steps with noise, fewer than the window"
        raise BadInput(problem, field="config.window")
    return window_at(
        step,
        steps=steps,
        size=config.window,
        every=config.window_every,
        order=config.window_order,
        seed=seed,
    )


def window_at(step: int, *, steps: int, size: int, every: int, order: WindowOrder, seed: int) -> range:
    """The window of training step ``step`` (from 1) over a chain's first ``steps`` steps.

    progressive: moves on by one after ``every`` steps, from the noisiest, and begins anew when it would
    pass the end (MixGRPO, arXiv:2507.21802). decaying: so, but stays for ⌈every · exp(-0.1 · max(l - 13, 0))⌉
    at place l. random: anywhere, for as long (HRF, arXiv:2410.08315). growing: the last ``size``, and after
    every ``every`` steps one more before them, up to all (B2-DiffuRL, arXiv:2503.11240).
    """
    places = steps - size + 1
    if order == "growing":
        return range(max(0, steps - size - (step - 1) // every), steps)
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
