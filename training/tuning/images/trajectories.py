"""Chains from noise to pictures that remember how they came about; their log-probabilities and replay.

    schedule = schedule_of(family, steps=20, height=512, width=512)           # images/schedules.py
    sampler = ddim(schedule, eta=1.0)      # or ancestral, flow_grpo, dance_grpo, consistency; .only(steps)
    denoise = guided_denoiser(family, module, conditioning, guidance=…)     # or any (x, time) -> prediction
    start = start_noise(family.latent_shape(512, 512), generators, device)  # a generator for each chain
    chain = sample(denoise, sampler, start, generators=generators)          # no gradient; chain.final
    for index in sampler.stochastic:                                        # train on all of them, or some
        logps = replay(denoise, sampler, chain, index)                      # (N,), with gradient
        ratio = (logps - chain.logps(index)).exp()                          # exactly 1 before an update
    more = sample(denoise, sampler, chain.before(5), generators=…, first=5)  # a branch from step 5
    proposal = step(denoise, sampler, x, index)      # .mean .std .clean (x̂_0) .noise (ε̂), with gradient

Latents are (N, …); step ``index`` counts from 0 (noise) and goes from ``chain.before(index)`` to
``chain.after(index)``. Step arithmetic is in the latents' type, float32 or float64, whatever the denoiser
computes in. Log-probabilities are means over a picture's numbers, as all published methods take them; times
their count they are those of the Gaussian. For the ratio to be exactly 1 a batch is replayed as it was
sampled.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.tuning.images.families import Conditioning, Family
from training.tuning.images.schedules import Latents, Sampler

Denoise = Callable[[Tensor, float], Tensor]  # noisy latents and a time of the schedule -> the prediction
Generators = torch.Generator | Sequence[torch.Generator]  # for all chains together, or one for each


class NoDensity(ValueError):
    """A deterministic step was asked for its log-probability."""


@dataclass(frozen=True)
class Proposal:
    """Where a step goes: N(mean, std²). ``clean`` is x̂_0 and ``noise`` ε̂, by which the mean was made."""

    mean: Latents
    std: float
    clean: Latents
    noise: Latents
    index: int

    def log_prob(self, following: Latents) -> Float[Tensor, " N"]:
        """log N(following; mean, std²), the mean over a picture's numbers. Gradient by the mean alone.

        Raises NoDensity for a step without noise.
        """
        self._check()
        away = (following.detach() - self.mean) / self.std
        each = -0.5 * away.square() - math.log(self.std) - 0.5 * math.log(2 * math.pi)
        return each.flatten(1).mean(dim=1)

    def kl(self, other: "Proposal") -> Float[Tensor, " N"]:
        """KL(self ‖ other) of a step with one std: Δmean² / 2 std², the mean over a picture's numbers."""
        self._check()
        return ((self.mean - other.mean) / self.std).square().flatten(1).mean(dim=1) / 2

    def draw(self, noise: Latents | None) -> Latents:
        """mean + std · noise; the mean itself for a step without noise."""
        return self.mean if noise is None else self.mean + self.std * noise

    def _check(self) -> None:
        if self.std == 0:
            raise NoDensity(
                f"step {self.index} has no noise, hence no log-probability: sample it with noise (eta > 0), "
                "or leave it out of training"
            )


@dataclass(frozen=True)
class Chain:
    """N chains of some steps, without gradient. ``states[i]`` is before step ``first`` + i, the last final.

    ``noises`` and the log-probabilities are those of the stochastic steps, by step.
    """

    first: int
    states: list[Latents]
    noises: dict[int, Latents]
    recorded: dict[int, Float[Tensor, " N"]]

    @property
    def final(self) -> Latents:
        """The latents after the last step."""
        return self.states[-1]

    @property
    def end(self) -> int:
        """The step after the last."""
        return self.first + len(self.states) - 1

    def before(self, index: int) -> Latents:
        """The latents that step ``index`` starts from."""
        return self.states[self._place(index)]

    def after(self, index: int) -> Latents:
        """The latents that step ``index`` ended at."""
        return self.states[self._place(index) + 1]

    def logps(self, index: int) -> Float[Tensor, " N"]:
        """Log-probabilities of step ``index`` under the policy that sampled it."""
        self._place(index)
        if index not in self.recorded:
            raise NoDensity(f"step {index} was sampled without noise and has no log-probability")
        return self.recorded[index]

    def select(self, rows: Sequence[int]) -> "Chain":
        """Some of the chains. Their log-probabilities stay as recorded, in the batch that sampled them."""
        return Chain(
            self.first,
            [state[rows] for state in self.states],
            {index: noise[rows] for index, noise in self.noises.items()},
            {index: logps[rows] for index, logps in self.recorded.items()},
        )

    def _place(self, index: int) -> int:
        if not self.first <= index < self.end:
            raise IndexError(
                f"step {index} is not among the steps {self.first} to {self.end - 1} of this chain"
            )
        return index - self.first


def step(denoise: Denoise, sampler: Sampler, x: Latents, index: int) -> Proposal:
    """The Gaussian of step ``index`` from x, with whatever gradients x and the denoiser carry.

    The inner step of everything: draw from it, replay a stored transition, or differentiate through a chain.
    """
    return propose(sampler, x, denoise(x, float(sampler.schedule.times[index])), index)


def propose(sampler: Sampler, x: Latents, said: Latents, index: int) -> Proposal:
    """The Gaussian of step ``index`` from x, by what a denoiser has said of x."""
    clean, noise = sampler.schedule.read(x, said.to(x.dtype), index)
    mean = float(sampler.clean[index]) * clean + float(sampler.noise[index]) * noise
    return Proposal(mean, float(sampler.std[index]), clean, noise, index)


@torch.no_grad()
def sample(
    denoise: Denoise,
    sampler: Sampler,
    start: Latents,
    *,
    generators: Generators,
    first: int = 0,
    end: int | None = None,
) -> Chain:
    """Steps ``first`` to ``end`` - 1, or all that are left, from ``start`` (N, …); recorded."""
    states, noises, recorded = [start], {}, {}
    for index in range(first, sampler.steps if end is None else end):
        proposal = step(denoise, sampler, states[-1], index)
        noise = None
        if proposal.std > 0:
            noise = noises[index] = draw_noise(start, generators)
        following = proposal.draw(noise)
        if noise is not None:
            recorded[index] = proposal.log_prob(following)
        states.append(following)
    return Chain(first, states, noises, recorded)


def replay(denoise: Denoise, sampler: Sampler, chain: Chain, index: int) -> Float[Tensor, " N"]:
    """Log-probabilities (N,) of step ``index`` as it happened, under ``denoise``, with gradient."""
    return step(denoise, sampler, chain.before(index), index).log_prob(chain.after(index))


def draw_noise(like: Latents, generators: Generators) -> Latents:
    """Standard normal noise; each chain's from its own generator, if it has one."""
    if isinstance(generators, torch.Generator):
        drawn = torch.randn(like.shape, generator=generators, dtype=like.dtype, device=generators.device)
        return drawn.to(like.device)
    rows = [
        torch.randn(like.shape[1:], generator=one, dtype=like.dtype, device=one.device) for one in generators
    ]
    return torch.stack(rows).to(like.device)


def start_noise(shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device) -> Latents:
    """x at the first step, float32: noise of ``shape`` (C, h, w) for each generator."""
    return draw_noise(torch.empty(len(generators), *shape, device=device), generators)


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (arXiv:2207.12598) with ``unconditional`` (N rows): u + scale · (c - u).

    Without ``gradient`` the branch without prompt is a constant (Flow-GRPO); with it, both learn (DDPO).
    """

    scale: float
    unconditional: Conditioning
    gradient: bool = True


def make_guidance(family: Family, *, scale: float, count: int, gradient: bool = True) -> Guidance | None:
    """Guidance of ``count`` pictures as the pipeline does it; None for scale 1 or a denoiser with its own.

    A denoiser that reads the scale itself gets it in its conditioning: see ``told_guidance``.
    """
    if scale <= 1 or family.reads_guidance:
        return None
    empty = family.encode_prompts([""])
    return Guidance(
        scale, {name: value.expand(count, *value.shape[1:]) for name, value in empty.items()}, gradient
    )


def told_guidance(family: Family, conditioning: Conditioning, *, scale: float) -> Conditioning:
    """The conditioning, with the scale for a denoiser that reads it."""
    if not family.reads_guidance:
        return conditioning
    any_value = next(iter(conditioning.values()))
    return conditioning | {"guidance": torch.full((len(any_value),), scale, device=any_value.device)}


def guided_denoiser(
    family: Family,
    module: nn.Module,
    conditioning: Conditioning,
    *,
    guidance: Guidance | None = None,
    autocast: torch.dtype | None = None,
) -> Denoise:
    """The family's denoiser at some prompts (N rows), with guidance, the same in sampling and in training.

    It computes in ``autocast``, or in its own type.
    """

    def predict(x: Tensor, time: float, rows: Conditioning) -> Tensor:
        times = torch.full((len(x),), time, device=x.device)
        with torch.autocast(x.device.type, dtype=autocast, enabled=autocast is not None):
            return family.predict(module, x, times, rows).to(x.dtype)

    def denoise(x: Tensor, time: float) -> Tensor:
        if guidance is None:
            return predict(x, time, conditioning)
        if guidance.gradient:
            rows = {
                name: torch.cat([guidance.unconditional[name], conditioning[name]]) for name in conditioning
            }
            without, told = predict(torch.cat([x, x]), time, rows).chunk(2)
        else:
            with torch.no_grad():
                without = predict(x, time, guidance.unconditional)
            told = predict(x, time, conditioning)
        return without + guidance.scale * (told - without)

    return denoise
