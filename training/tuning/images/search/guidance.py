"""Guidance by a reward's gradient: Flow-NRG (arXiv:2501.13918), and the same for schedules of betas."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.images.schedules import Sampler
from training.tuning.images.search.walk import Latents, Walk
from training.tuning.images.trajectories import Proposal

# Of the noisy latents, the pictures that they point at, and the step.
Value = Callable[[Latents, Latents, int], Float[Tensor, " N"]]


def guided(walk: Walk, sampler: Sampler, value: Value, *, weight: float) -> Walk:
    """The walk whose score, ∇ log p_t, is larger by ``weight`` · ∇ value(x_t) at every step.

    For a flow this is ṽ = v − w · t/(1 − t) · ∇r(x_t, t). With the soft value log E[exp(r(x_0)) | x_t] and
    weight 1 it draws from p(x) exp(r(x)) exactly. Its usual stand-in is the reward of the picture that the
    denoiser points at; the gradient then goes through the denoiser. Pure noise points nowhere yet: a step
    that starts from it is left as it is.
    """

    def propose(latents: Tensor, index: int) -> Proposal:
        alpha, sigma = float(sampler.schedule.alphas[index]), float(sampler.schedule.sigmas[index])
        if alpha == 0:
            return walk.propose(latents, index)
        with torch.enable_grad():
            noisy = latents.detach().requires_grad_()
            proposal = walk.propose(noisy, index)
            (gradient,) = torch.autograd.grad(value(noisy, proposal.clean, index).sum(), noisy)
        shift = weight * gradient
        return shifted(proposal, sampler, shift, alpha=alpha, sigma=sigma)

    return Walk(propose, walk.steps)


def shifted(proposal: Proposal, sampler: Sampler, shift: Latents, *, alpha: float, sigma: float) -> Proposal:
    """The proposal of a score that is larger by ``shift``: ε̂ − σ · shift, x̂_0 + σ²/α · shift (Tweedie)."""
    clean = proposal.clean.detach() + sigma**2 / alpha * shift
    noise = proposal.noise.detach() - sigma * shift
    mean = float(sampler.clean[proposal.index]) * clean + float(sampler.noise[proposal.index]) * noise
    return replace(proposal, mean=mean, clean=clean, noise=noise)
