"""Where a chain of samples goes through (``Schedule``), and how it steps (``Sampler``).

All families mix as x_t = α_t x_0 + σ_t ε: by betas α² + σ² = 1, in a flow α = 1 - σ. Every step rule here has
a Gaussian whose mean is linear in what the denoiser says about picture and noise,

    x' ~ N(clean · x̂_0 + noise · ε̂, std²),

so that a rule is no more than three numbers for each step, in float64: ``clean``, ``noise``, ``std``. The
deterministic step, x' = α' x̂_0 + σ' ε̂, is DDIM without noise and Euler's for the flow, which are the same.
"""

import copy
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from jaxtyping import Float
from torch import Tensor

from training.tuning.errors import BadInput
from training.tuning.images.families import Family
from training.tuning.images.families.noise import BetaNoise

Prediction = Literal["epsilon", "v_prediction", "sample", "velocity"]
Latents = Float[Tensor, "N *D"]  # of N pictures, whatever their shape


@dataclass(frozen=True)
class Schedule:
    """The levels x_t = α_t x_0 + σ_t ε that a chain of K steps goes through, from noise to data; float64.

    alphas, sigmas: (L,), L = K + 1. times: (K,), what the denoiser reads at the start of each step.
    prediction: what it says: ε; v = α ε - σ x_0 (arXiv:2202.00512); x_0; or in a flow the velocity ε - x_0.
    clip: x̂_0 is kept within ±clip, if the model's own sampler does so. skip, out: (K,), for a consistency
    model, whose picture is skip · x + out · x̂_0 (arXiv:2310.04378, Eq. 9).
    """

    alphas: Float[Tensor, " L"]
    sigmas: Float[Tensor, " L"]
    times: Float[Tensor, " K"]
    prediction: Prediction
    clip: float | None = None
    skip: Float[Tensor, " K"] | None = None
    out: Float[Tensor, " K"] | None = None

    @property
    def steps(self) -> int:
        """K."""
        return len(self.times)

    @property
    def is_flow(self) -> bool:
        """Whether α = 1 - σ."""
        return self.prediction == "velocity"

    def read(self, x: Latents, said: Latents, index: int) -> tuple[Latents, Latents]:
        """x̂_0 and ε̂ from what the denoiser said of x at the start of step ``index``."""
        alpha, sigma = float(self.alphas[index]), float(self.sigmas[index])
        if self.prediction == "epsilon":
            clean, noise = (x - sigma * said) / alpha, said
        elif self.prediction == "v_prediction":
            clean, noise = alpha * x - sigma * said, sigma * x + alpha * said
        elif self.prediction == "sample":
            clean, noise = said, (x - alpha * said) / sigma
        else:
            clean, noise = x - sigma * said, x + (1 - sigma) * said
        if self.skip is not None and self.out is not None:
            clean = float(self.skip[index]) * x + float(self.out[index]) * clean
        return (clean if self.clip is None else clean.clamp(-self.clip, self.clip)), noise


def flow_schedule(sigmas: Float[Tensor, " L"], *, times: Float[Tensor, " K"] | None = None) -> Schedule:
    """A flow through these falling σ, the last one included; the denoiser reads ``times``, or σ itself."""
    sigmas = sigmas.double()
    return Schedule(1 - sigmas, sigmas, sigmas[:-1] if times is None else times.double(), "velocity")


def beta_schedule(
    alphas_cumprod: Float[Tensor, " L"], *, times: Float[Tensor, " K"], prediction: Prediction = "epsilon"
) -> Schedule:
    """A variance-preserving chain through these rising ᾱ = α², the last one included."""
    squares = alphas_cumprod.double()
    return Schedule(squares.sqrt(), (1 - squares).sqrt(), times.double(), prediction)


def schedule_of(family: Family, *, steps: int, height: int, width: int) -> Schedule:
    """The schedule that the family's pipeline samples with, of a picture of this size in pixels.

    By betas it is that of DDIM with the pipeline's own spacing; its last level is the scheduler's, which with
    ``set_alpha_to_one`` has no noise. The shift of a flow that depends on the resolution is in it.
    """
    config = dict(family.pipeline.scheduler.config)
    if isinstance(family.pipeline.scheduler, LCMScheduler):
        return _consistency_schedule(copy.deepcopy(family.pipeline.scheduler), steps)
    if isinstance(family.noise, BetaNoise):
        if config.get("thresholding"):
            raise BadInput(
                "dynamic thresholding has no step rule here", file=family.base, field="thresholding"
            )
        scheduler = DDIMScheduler.from_config(config)
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps
        last = torch.as_tensor(scheduler.final_alpha_cumprod).reshape(1)
        found = beta_schedule(
            torch.cat([scheduler.alphas_cumprod[timesteps], last]),
            times=timesteps.float(),
            prediction=config.get("prediction_type", "epsilon"),
        )
        clip = float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample") else None
        return replace(found, clip=clip)
    if config.get("use_flow_sigmas"):
        config = {"num_train_timesteps": config["num_train_timesteps"], "shift": config["flow_shift"]}
    flow = FlowMatchEulerDiscreteScheduler.from_config(copy.deepcopy(config))
    settings = {"sigmas": family.sampling_sigmas(steps)} if family.sampling_sigmas(steps) else {}
    if config.get("use_dynamic_shifting"):
        tokens = (height // family.pixel_multiple) * (width // family.pixel_multiple)
        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        settings["mu"] = calculate_shift(tokens, *(config[name] for name in names))
    flow.set_timesteps(None if "sigmas" in settings else steps, **settings)
    # Solvers that were taught flows round the times that the denoiser reads.
    times = (
        flow.timesteps.floor() if family.pipeline.scheduler.config.get("use_flow_sigmas") else flow.timesteps
    )
    return flow_schedule(flow.sigmas, times=times)


def _consistency_schedule(scheduler: LCMScheduler, steps: int) -> Schedule:
    """The few timesteps of a latent consistency model; its last picture has no noise."""
    for key in ("thresholding", "clip_sample"):
        if scheduler.config.get(key):
            raise BadInput("has no step rule here", file="scheduler_config.json", field=key)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    levels = torch.cat([scheduler.alphas_cumprod[timesteps], torch.ones(1)])
    found = beta_schedule(levels, times=timesteps.float(), prediction=scheduler.config["prediction_type"])
    skip, out = scheduler.get_scalings_for_boundary_condition_discrete(timesteps.double())
    return replace(found, skip=skip, out=out)


@dataclass(frozen=True)
class Sampler:
    """K steps x' ~ N(clean · x̂_0 + noise · ε̂, std²) through a schedule; all (K,), float64.

    A step with std 0 is deterministic: it has no log-probability.
    """

    schedule: Schedule
    clean: Float[Tensor, " K"]
    noise: Float[Tensor, " K"]
    std: Float[Tensor, " K"]

    @property
    def steps(self) -> int:
        """K."""
        return self.schedule.steps

    @property
    def stochastic(self) -> list[int]:
        """The steps that have a log-probability."""
        return [index for index, std in enumerate(self.std.tolist()) if std > 0]

    def only(self, window: Collection[int]) -> "Sampler":
        """Chance only in these steps (MixGRPO, arXiv:2507.21802); the others are deterministic."""
        inside = torch.tensor([index in window for index in range(self.steps)])
        plain = ddim(self.schedule, eta=0.0)
        return Sampler(
            self.schedule,
            torch.where(inside, self.clean, plain.clean),
            torch.where(inside, self.noise, plain.noise),
            torch.where(inside, self.std, plain.std),
        )


def ddim(schedule: Schedule, *, eta: float) -> Sampler:
    """DDIM (arXiv:2010.02502, Eq. 12 and 16), for any α and σ; η = 0 is the deterministic sampler, 1 DDPM's.

    std² = η² (σ'²/σ²)(σ² - (α/α')² σ'²), which by betas is η² (1 - ᾱ')/(1 - ᾱ)·(1 - ᾱ/ᾱ').
    """
    alpha, sigma, alpha_next, sigma_next = _levels(schedule)
    variance = (sigma_next / sigma) ** 2 * (sigma**2 - (alpha / alpha_next * sigma_next) ** 2)
    std = eta * variance.clamp(min=0).sqrt()
    return Sampler(schedule, alpha_next, (sigma_next**2 - std**2).clamp(min=0).sqrt(), std)


def ancestral(schedule: Schedule) -> Sampler:
    """DDPM's ancestral step (arXiv:2006.11239, Eq. 7), from q(x' | x, x̂_0)."""
    return ddim(schedule, eta=1.0)


def flow_sde(schedule: Schedule, *, diffusion: Callable[[float, float], float]) -> Sampler:
    """The SDE dx = [v + g²/(2t)·(x + (1-t) v)] dt + g dw of a flow; it has the ODE's marginals for any g.

    Euler-Maruyama: x' = x̂_0 (1 - t') + ε̂ (t' - g² |dt| / 2t) + g √|dt| z. ``diffusion(t, next)`` is g at a
    step's start t.
    """
    if not schedule.is_flow:
        raise ValueError("the SDE of a flow needs a flow; by betas, take ddim")
    time, following = schedule.sigmas[:-1], schedule.sigmas[1:]
    g = torch.tensor(
        [diffusion(float(one), float(other)) for one, other in zip(time, following, strict=True)],
        dtype=torch.float64,
    )
    length = time - following
    return Sampler(schedule, 1 - following, following - g**2 * length / (2 * time), g * length.sqrt())


def flow_grpo(schedule: Schedule, *, noise: float = 0.7) -> Sampler:
    """Flow-GRPO (arXiv:2505.05470, Eq. 9): g = a √(t / (1 - t)); at t = 1 the next t in the denominator.

    Near t = 1 that is singular: the first step's variance is off by a share that more steps do not remove,
    and that fades on the way.
    """

    def diffusion(time: float, following: float) -> float:
        return noise * math.sqrt(time / (1 - (following if time >= 1 else time)))

    return flow_sde(schedule, diffusion=diffusion)


def dance_grpo(schedule: Schedule, *, noise: float = 0.3) -> Sampler:
    """DanceGRPO (arXiv:2505.07818, Eq. 8): the same g at every step."""
    return flow_sde(schedule, diffusion=lambda time, following: noise)


def consistency(schedule: Schedule) -> Sampler:
    """x' = α' f + σ' z from the picture f of a consistency model (arXiv:2303.01469, Algorithm 1)."""
    _, _, alpha_next, sigma_next = _levels(schedule)
    return Sampler(schedule, alpha_next, torch.zeros_like(alpha_next), sigma_next.clone())


def _levels(schedule: Schedule) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return schedule.alphas[:-1], schedule.sigmas[:-1], schedule.alphas[1:], schedule.sigmas[1:]
