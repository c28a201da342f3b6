"""Pictures with a gradient back to the denoiser: how far it reaches is what the methods differ in.

All work on any ``denoise`` and step rule of ``trajectories.py``, and never draw noise from anywhere but the
given generators.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.tuning.images.schedules import Sampler, Schedule
from training.tuning.images.trajectories import (
    Chain,
    Denoise,
    Generators,
    Latents,
    draw_noise,
    sample,
    step,
)


def draw_last_steps(
    denoise: Denoise,
    sampler: Sampler,
    start: Latents,
    *,
    generators: Generators,
    last: int,
    recompute: bool = False,
) -> Latents:
    """Pictures (N, …) with a gradient through the ``last`` steps: DRaFT-K (arXiv:2309.17400), AlignProp
    (arXiv:2310.03739); all steps if there are no more.

    ``recompute`` keeps only the latents between steps and calls the denoiser again in the backward pass.
    """
    first = max(0, sampler.steps - last)
    latents = sample(denoise, sampler, start, generators=generators, end=first).final
    for index in range(first, sampler.steps):
        noise = draw_noise(latents, generators) if float(sampler.std[index]) > 0 else None

        def take(x: Tensor, index: int = index, noise: Tensor | None = noise) -> Tensor:
            return step(denoise, sampler, x, index).draw(noise)

        if recompute and torch.is_grad_enabled():
            latents = checkpoint(take, latents, use_reentrant=False)
        else:
            latents = take(latents)
    return latents


def redraw_last_step(
    denoise: Denoise, sampler: Sampler, clean: Latents, *, generators: Generators, count: int
) -> list[Latents]:
    """``count`` pictures made of each clean one: noised to the level of the last step, which then has a
    gradient. Their mean reward is that of DRaFT-LV (arXiv:2309.17400).
    """
    index = sampler.steps - 1
    found = []
    for _ in range(count):
        noisy = noised(sampler.schedule, clean, draw_noise(clean, generators), index)
        proposal = step(denoise, sampler, noisy, index)
        found.append(proposal.draw(draw_noise(clean, generators) if proposal.std > 0 else None))
    return found


def point_at_clean(
    denoise: Denoise, sampler: Sampler, start: Latents, *, generators: Generators, at: int, first: int = 0
) -> Latents:
    """x̂_0 as the denoiser sees it before step ``at``, with a gradient through this one call: ReFL
    (arXiv:2304.05977). ``start`` stands before step ``first``.
    """
    latents = sample(denoise, sampler, start, generators=generators, first=first, end=at).final
    return step(denoise, sampler, latents, at).clean


def noised(schedule: Schedule, clean: Latents, noise: Latents, level: int) -> Latents:
    """α x_0 + σ ε at a level of the schedule."""
    return float(schedule.alphas[level]) * clean + float(schedule.sigmas[level]) * noise


def align_directly(
    denoise: Denoise, schedule: Schedule, clean: Latents, noise: Latents, *, level: int, to: int
) -> Latents:
    """The picture recovered after one step of the denoiser from ``level`` to the level ``to``: Direct-Align
    (arXiv:2509.06942).

    The noise is known, so that the clean picture can be read off at any level: (x' − σ' ε) / α'. Where the
    denoiser is right this is ``clean`` itself, and only that one call carries a gradient. ``to`` may be less
    noisy (denoising) or noisier (inversion).
    """
    noisy = noised(schedule, clean, noise, level)
    picture, left = schedule.read(noisy, denoise(noisy, float(schedule.times[level])), level)
    moved = noised(schedule, picture, left, to)
    return (moved - float(schedule.sigmas[to]) * noise) / float(schedule.alphas[to])


def lean_adjoints(
    base: Denoise, sampler: Sampler, chain: Chain, at_end: Latents, *, steps: Sequence[int] | None = None
) -> dict[int, Latents]:
    """Adjoints after each step: a_K = ``at_end``, a_k = J(Φ_k)ᵀ a_{k+1} with Φ the base's mean, detached.

    Lean adjoint of adjoint matching (arXiv:2409.08861); ``steps`` limits which are kept, and
    nothing is computed before the first of them.
    """
    wanted = list(range(chain.first, chain.end)) if steps is None else list(steps)
    adjoint, kept = at_end, {}
    for index in range(chain.end - 1, min(wanted) - 1, -1):
        if index in wanted:
            kept[index] = adjoint
        if index > min(wanted):
            with torch.enable_grad():
                before = chain.before(index).detach().requires_grad_()
                mean = step(base, sampler, before, index).mean
                (adjoint,) = torch.autograd.grad(mean, before, adjoint)
    return kept


def reward_gradient(reward: Float[Tensor, " N"], at: Latents) -> Latents:
    """∇ of each row's reward at ``at``, detached."""
    (gradient,) = torch.autograd.grad(reward.sum(), at)
    return gradient.detach()
