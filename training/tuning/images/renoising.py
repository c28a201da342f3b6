"""From one noise level of a picture to a noisier one, and back to what a prediction says of the picture."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from training.tuning.images.families import Family
from training.tuning.images.families.noise import BetaNoise
from training.tuning.images.schedules import Latents, Prediction


@dataclass(frozen=True)
class Levels:
    """x_t = α_t x_0 + σ_t ε at the training timesteps, (T,) from the least noisy; and what is predicted."""

    alphas: Float[Tensor, " T"]
    sigmas: Float[Tensor, " T"]
    prediction: Prediction

    def noisier_than(self, alpha: float, sigma: float) -> list[int]:
        """The timesteps with more noise in proportion to the picture; the last one if there is none."""
        found = torch.nonzero(self.sigmas * alpha > self.alphas * sigma)[:, 0].tolist()
        return found or [len(self.sigmas) - 1]

    def clean(self, noisy: Latents, said: Latents, timesteps: Int[Tensor, " N"]) -> Latents:
        """x̂_0 from what a denoiser said of noisy pictures."""
        alpha, sigma = self.at(timesteps, noisy)
        if self.prediction == "epsilon":
            return (noisy - sigma * said) / alpha
        if self.prediction == "v_prediction":
            return alpha * noisy - sigma * said
        return said if self.prediction == "sample" else noisy - sigma * said

    def at(self, timesteps: Int[Tensor, " N"], like: Latents) -> tuple[Tensor, Tensor]:
        """α and σ of each picture, in a shape that multiplies it."""
        shape = (-1, *[1] * (like.ndim - 1))
        tables = (table[timesteps.cpu()].to(like).view(shape) for table in (self.alphas, self.sigmas))
        alpha, sigma = tables
        return alpha, sigma


def levels_of(family: Family) -> Levels:
    """The noise levels that the family was trained at."""
    timesteps = torch.arange(family.train_timesteps)
    ones, zeros = torch.ones(len(timesteps), 1, 1, 1), torch.zeros(len(timesteps), 1, 1, 1)
    alphas = family.add_noise(ones, zeros, timesteps).flatten()
    sigmas = family.add_noise(zeros, ones, timesteps).flatten()
    kind: Prediction = "velocity"
    if isinstance(family.noise, BetaNoise):
        kind = family.noise.schedule.config.prediction_type
    return Levels(alphas.double(), sigmas.double(), kind)


def renoised(
    noisy: Latents, noise: Latents, *, alpha: float, sigma: float, to_alpha: Tensor, to_sigma: Tensor
) -> Latents:
    """x_j ~ q(x_j | x_k): (α_j / α_k) x_k + √(σ_j² - (α_j σ_k / α_k)²) z, with more noise at j than at k.

    What was α_k x_0 + σ_k ε becomes α_j x_0 + σ_j ε' (Self-NPO, arXiv:2505.11777).
    """
    share = to_alpha / alpha
    return share * noisy + (to_sigma**2 - (share * sigma) ** 2).clamp(min=0).sqrt() * noise
