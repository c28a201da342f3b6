"""What rewards make of Gaussian data: r = ax tilts N(m, s²) to p · exp(r) = N(m + as², s²)."""

import torch
from torch import Tensor

from tests.tuning.gaussians import MEAN, SPREAD, by_betas, cosine, velocity
from training.tuning.images.schedules import Schedule, beta_schedule, flow_schedule
from training.tuning.images.trajectories import Denoise

SLOPE = 0.4
TILTED_MEAN = MEAN + SLOPE * SPREAD**2  # 1.376


def flow(steps: int) -> Schedule:
    """Equal steps from noise to data."""
    return flow_schedule(torch.linspace(1, 0, steps + 1, dtype=torch.float64))


def betas(steps: int) -> Schedule:
    """By betas; times are the steps."""
    return beta_schedule(cosine(steps), times=torch.arange(steps).double())


def exact(schedule: Schedule) -> Denoise:
    """The denoiser of the data."""
    return velocity if schedule.is_flow else by_betas("epsilon", schedule)


def noise(count: int, *, seed: int = 0) -> Tensor:
    """(count, 1, 1, 1), float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 1, 1, generator=generator, dtype=torch.float64)


def linear(x: Tensor) -> Tensor:
    """r = ax, (N,)."""
    return SLOPE * x.flatten(1).sum(dim=1)
