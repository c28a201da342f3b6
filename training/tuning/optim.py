"""Optimizers, and the learning rate as a function of the step: resuming needs no state for it."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from training.tuning.config import TrainConfig
from training.tuning.processes import add_gradients, whole_tensor

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": partial(torch.optim.AdamW, fused=True),  # one pass over the weights instead of nine
    "rmsprop": torch.optim.RMSprop,
    "adafactor": torch.optim.Adafactor,
    "sgd": torch.optim.SGD,
}


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    config: TrainConfig,
    *,
    others: Sequence[tuple[Iterable[nn.Parameter], float]] = (),
) -> torch.optim.Optimizer:
    """The optimizer that the config names, over the parameters that require a gradient.

    ``others`` have peak learning rates of their own, with the same schedule.
    """
    groups = [
        {"params": [one for one in own if one.requires_grad], "share": rate / config.learning_rate}
        for own, rate in [(parameters, config.learning_rate), *others]
    ]
    return OPTIMIZERS[config.optimizer](groups, lr=config.learning_rate, weight_decay=config.weight_decay)


def learning_rate(config: TrainConfig, *, step: int, total_steps: int) -> float:
    """The learning rate of step ``step`` in 1..total_steps: linear warm-up, then the config's schedule."""
    warmup = round(config.warmup * total_steps) if config.warmup < 1 else int(config.warmup)
    if step <= warmup:
        return config.learning_rate * step / (warmup + 1)
    left = 1 - (step - 1 - warmup) / max(1, total_steps - warmup)
    shape = {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}
    return config.learning_rate * shape[config.scheduler]


def update(
    optimizer: torch.optim.Optimizer, config: TrainConfig, *, step: int, total_steps: int
) -> dict[str, float]:
    """Add up the processes' gradients, clip, step, and clear them.

    Returns ``grad_norm`` (before clipping) and ``learning_rate``.
    """
    rate = learning_rate(config, step=step, total_steps=total_steps)
    parameters: list[Any] = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
    add_gradients(parameters)
    limit = float("inf") if config.max_grad_norm is None else config.max_grad_norm
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"grad_norm": float(whole_tensor(norm)), "learning_rate": rate}
