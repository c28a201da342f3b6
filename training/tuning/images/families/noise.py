"""How pictures and noise are mixed, and what a denoiser is asked for: by betas, or along straight lines."""

import inspect
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers import DDPMScheduler
from jaxtyping import Float, Int, Real
from torch import Tensor

from training.tuning.errors import BadInput

PREDICTIONS = ("epsilon", "v_prediction", "sample")
Latents = Float[Tensor, "N C h w"]


@runtime_checkable
class Noise(Protocol):
    """A training schedule. Timesteps count from 0, the least noisy, to ``timesteps`` - 1."""

    @property
    def timesteps(self) -> int:
        """How many there are."""

    def add_noise(self, latents: Latents, noise: Latents, timesteps: Int[Tensor, " N"]) -> Latents:
        """x_t."""

    def target(self, latents: Latents, noise: Latents, timesteps: Int[Tensor, " N"]) -> Latents:
        """What the denoiser is asked for."""

    def read(self, timesteps: Real[Tensor, " N"]) -> Tensor:
        """The timesteps as the denoiser reads them, (N,); floats are read so already."""


@dataclass(frozen=True)
class BetaNoise:
    """x_t = α_t x_0 + σ_t ε, with the schedule of betas that the pipeline's sampler was trained with."""

    schedule: DDPMScheduler

    @property
    def timesteps(self) -> int:
        """How many there are."""
        return int(self.schedule.config.num_train_timesteps)

    def add_noise(self, latents: Latents, noise: Latents, timesteps: Int[Tensor, " N"]) -> Latents:
        """x_t = α_t x_0 + σ_t ε."""
        return self.schedule.add_noise(latents, noise, timesteps)

    def target(self, latents: Latents, noise: Latents, timesteps: Int[Tensor, " N"]) -> Latents:
        """ε, v = α_t ε - σ_t x_0 (arXiv:2202.00512), or x_0, as the pipeline's config says."""
        kind = self.schedule.config.prediction_type
        if kind == "epsilon":
            return noise
        if kind == "v_prediction":
            return self.schedule.get_velocity(latents, noise, timesteps)
        return latents

    def read(self, timesteps: Real[Tensor, " N"]) -> Tensor:
        """Timesteps as they are."""
        return timesteps


@dataclass(frozen=True)
class FlowNoise:
    """x_t = (1 - σ_t) x_0 + σ_t ε: rectified flow (arXiv:2209.03003), with the σ of the pipeline's scheduler.

    ``sigmas`` (T,) rise. A static shift of the scheduler (arXiv:2403.03206, Eq. 23) is in them; a shift that
    depends on the resolution belongs to sampling alone.
    """

    sigmas: Float[Tensor, " T"]
    scale: int

    @property
    def timesteps(self) -> int:
        """How many there are."""
        return len(self.sigmas)

    def add_noise(self, latents: Latents, noise: Latents, timesteps: Int[Tensor, " N"]) -> Latents:
        """x_t = (1 - σ_t) x_0 + σ_t ε."""
        sigma = self._sigma(timesteps, latents)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Latents, noise: Latents, timesteps: Int[Tensor, " N"]) -> Latents:
        """The velocity ε - x_0."""
        return noise - latents

    def read(self, timesteps: Real[Tensor, " N"]) -> Tensor:
        """σ_t times the number of training timesteps, as the schedulers give it."""
        if timesteps.is_floating_point():
            return timesteps
        return self._sigma(timesteps)[:, 0, 0, 0] * self.scale

    def _sigma(self, timesteps: Tensor, like: Tensor | None = None) -> Tensor:
        sigmas = self.sigmas.to(timesteps.device if like is None else like.device)
        return sigmas[timesteps.to(sigmas.device)].view(-1, 1, 1, 1)


def noise_of(scheduler: Any, *, base: str, supported: str) -> Noise:
    """The training schedule behind a pipeline's scheduler, of whatever sampler."""
    name, config = type(scheduler).__name__, dict(scheduler.config)
    parameters = inspect.signature(type(scheduler).__init__).parameters
    if config.get("use_flow_sigmas"):  # a solver of another kind of model that was taught flows
        count, shift = int(config["num_train_timesteps"]), float(config.get("flow_shift") or 1.0)
        even = torch.arange(1, count + 1) / count
        return FlowNoise(shift * even / (1 + (shift - 1) * even), count)
    if "beta_schedule" not in parameters:
        if not name.startswith("FlowMatch") or not isinstance(getattr(scheduler, "sigmas", None), Tensor):
            message = f"scheduler {name} has neither a schedule of betas nor one of flow matching"
            raise BadInput(f"{message}; {supported}", file=base, field="scheduler")
        count = int(config["num_train_timesteps"])
        sigmas = scheduler.sigmas[:count].flip(0).to(torch.float32)
        return FlowNoise(sigmas, count)
    if config.get("prediction_type", "epsilon") not in PREDICTIONS:
        known = ", ".join(PREDICTIONS)
        raise BadInput(
            f"{config['prediction_type']!r} is none of {known}", file=base, field="prediction_type"
        )
    keys = set(inspect.signature(DDPMScheduler.__init__).parameters) - {"self", "kwargs"}
    return BetaNoise(DDPMScheduler(**{key: value for key, value in config.items() if key in keys}))
