"""Gaussian data with its exact denoisers, and what rewards make of it; see "closed forms" in the tests.

Data are N(m, s²). A reward r tilts them to p · exp(r): linear, r = ax, to N(m + as², s²).
"""

import torch
from torch import Tensor

from training.tuning.images.schedules import Schedule, beta_schedule, flow_schedule

MEAN, DEVIATION = 0.7, 1.3
SLOPE = 0.4
TILTED_MEAN = MEAN + SLOPE * DEVIATION**2  # 1.376


def velocity(x: Tensor, time: float, *, mean: float = MEAN, deviation: float = DEVIATION) -> Tensor:
    """E[e − x_0 | x_t] of a flow: −m + (t − (1−t) s²)/D · (x − (1−t) m), D = (1−t)² s² + t²."""
    spread = (1 - time) ** 2 * deviation**2 + time**2
    slope = (time - (1 - time) * deviation**2) / spread
    return -mean + slope * (x - (1 - time) * mean)


def epsilon(x: Tensor, square: float) -> Tensor:
    """ε* = σ (x − αm) / (α² s² + σ²) by betas; ``square`` is ᾱ = α²."""
    alpha, sigma = square**0.5, (1 - square) ** 0.5
    return sigma * (x - alpha * MEAN) / (square * DEVIATION**2 + 1 - square)


def flow(steps: int) -> Schedule:
    """Equal steps from noise to data."""
    return flow_schedule(torch.linspace(1, 0, steps + 1, dtype=torch.float64))


def betas(steps: int) -> Schedule:
    """By betas, ᾱ from 1e-4 to 1; the denoiser reads ᾱ."""
    angles = torch.linspace(torch.pi / 2 - 0.01, 0, steps + 1, dtype=torch.float64)
    squares = angles.cos() ** 2
    return beta_schedule(squares, times=squares[:-1])


def noise(count: int, *, seed: int = 0) -> Tensor:
    """(count, 1, 1, 1), float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 1, 1, generator=generator, dtype=torch.float64)


def linear(x: Tensor) -> Tensor:
    """r = ax, (N,)."""
    return SLOPE * x.flatten(1).sum(dim=1)
