"""Image models with known scores: data N(m, s²) in every number, seen through noise."""

import torch
from torch import Tensor

from training.tuning.images.schedules import Sampler, Schedule
from training.tuning.images.trajectories import Denoise, step

MEAN, SPREAD = 0.7, 1.3  # m and s


def velocity(x: Tensor, t: float, *, mean: float = MEAN, spread: float = SPREAD) -> Tensor:
    """E[ε - x_0 | x_t = x] of a flow, t = σ."""
    variance = (1 - t) ** 2 * spread**2 + t**2
    return -mean + (t - (1 - t) * spread**2) / variance * (x - (1 - t) * mean)


def by_betas(prediction: str, schedule: Schedule, *, mean: float = MEAN, spread: float = SPREAD) -> Denoise:
    """What a model of the data says of a variance-preserving chain; times are the steps."""

    def denoise(x: Tensor, time: float) -> Tensor:
        alpha, sigma = float(schedule.alphas[int(time)]), float(schedule.sigmas[int(time)])
        variance = alpha**2 * spread**2 + sigma**2
        noise = sigma * (x - alpha * mean) / variance
        clean = mean + alpha * spread**2 * (x - alpha * mean) / variance
        return {"epsilon": noise, "sample": clean, "v_prediction": alpha * noise - sigma * clean}[prediction]

    return denoise


def moments(
    denoise: Denoise, sampler: Sampler, *, mean: float = 0.0, variance: float = 1.0
) -> tuple[list[float], list[float]]:
    """Mean and variance before each step and at the end, exactly: a Gaussian's steps are linear."""
    means, variances = [mean], [variance]
    probe = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for index in range(sampler.steps):
        proposal = step(denoise, sampler, probe, index)
        at_zero, slope = float(proposal.mean[0]), float(proposal.mean[1] - proposal.mean[0])
        means.append(at_zero + slope * means[-1])
        variances.append(slope**2 * variances[-1] + proposal.std**2)
    return means, variances


def cosine(steps: int) -> Tensor:
    """Rising ᾱ (steps + 1,) of the squared cosine, from nearly no picture to no noise."""
    at = torch.linspace(0.999, 0.0, steps + 1, dtype=torch.float64)
    return (at * torch.pi / 2).cos().square()
