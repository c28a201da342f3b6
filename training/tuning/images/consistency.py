"""A model that sees the same picture from everywhere on a path: consistency functions and their targets."""

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

from training.tuning.images.renoising import Levels
from training.tuning.images.schedules import Latents

SIGMA_DATA, SCALING = 0.5, 10.0  # of latent consistency models (arXiv:2310.04378), as LCMScheduler has them
Said = Callable[[Latents, Int[Tensor, " N"]], Latents]  # noisy pictures and timesteps -> the prediction


def jumps(count: int, *, timesteps: int) -> list[tuple[int, int]]:
    """(from, to) of every step of a solver with ``count`` steps, the least noisy first, which goes to 0."""
    length = timesteps // count
    return [((at + 1) * length - 1, max(0, at * length - 1)) for at in range(count)]


def picture(levels: Levels, said: Said, noisy: Latents, timesteps: Int[Tensor, " N"]) -> Latents:
    """f = c_skip x + c_out x̂_0 (arXiv:2310.04378, Eq. 9), which at timestep 0 is x itself."""
    time = (timesteps.to(noisy) * SCALING).view(-1, *[1] * (noisy.ndim - 1))
    skip = SIGMA_DATA**2 / (time**2 + SIGMA_DATA**2)
    out = time / (time**2 + SIGMA_DATA**2).sqrt()
    return skip * noisy + out * levels.clean(noisy, said(noisy, timesteps), timesteps)


def solved(
    levels: Levels,
    noisy: Latents,
    clean: Latents,
    empty: Latents,
    *,
    guidance: Float[Tensor, " N"],
    start: Int[Tensor, " N"],
    end: Int[Tensor, " N"],
) -> Latents:
    """One step of DDIM from ``start`` to ``end`` under x̂_0 + w (x̂_0 − x̂_0 without prompt)."""
    w = guidance.to(noisy).view(-1, *[1] * (noisy.ndim - 1))
    wanted = clean + w * (clean - empty)
    alpha, sigma = levels.at(start, noisy)
    to_alpha, to_sigma = levels.at(end, noisy)
    return to_alpha * wanted + to_sigma * (noisy - alpha * wanted) / sigma
