"""The search that a run asks for, on its model and rewards: one picture at a time, each from its seed."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from training.tuning.config import ImageGenerateConfig
from training.tuning.errors import BadInput
from training.tuning.images.data import to_image
from training.tuning.images.families import Conditioning, Family
from training.tuning.images.generation import Request, Sampling
from training.tuning.images.schedules import Sampler, ddim, schedule_of
from training.tuning.images.search.best_of_n import Cut, best_of_n, rank_sum
from training.tuning.images.search.candidates import search_candidates
from training.tuning.images.search.guidance import guided
from training.tuning.images.search.noise import ByGradient, ByPolicy, fit_noise, optimise_noise
from training.tuning.images.search.particles import steer
from training.tuning.images.search.walk import Walk, one_generator
from training.tuning.images.trajectories import (
    Denoise,
    Guidance,
    Proposal,
    guided_denoiser,
    start_noise,
    told_guidance,
)
from training.tuning.rewards.compose import Rewards, Scored, open_rewards
from training.tuning.rewards.pictures import PictureReward
from training.tuning.run import Run


@dataclass(frozen=True)
class Found:
    """A picture, and what the rewards say of it."""

    image: Image.Image
    reward: float


@dataclass(frozen=True)
class Task:
    """One picture to find: its prompt's steps and rewards, and where its noise comes from."""

    walk: Walk
    sampler: Sampler
    score: Callable[[Tensor], Tensor]
    promise: Callable[[Tensor, int], Tensor]
    differentiable: Callable[[Tensor], Tensor]
    generator: torch.Generator
    shape: tuple[int, int, int]
    config: ImageGenerateConfig
    device: torch.device

    def noise(self, count: int) -> Tensor:
        """Starting noises (count, C, h, w)."""
        return start_noise(self.shape, [self.generator] * count, self.device)

    def steps_between(self) -> range:
        """The steps from ``search_from`` until ``search_until``."""
        steps = self.walk.steps
        return range(round(self.config.search_from * steps), round(self.config.search_until * steps))


class Search:
    """A run's search, opened once. Raises BadInput for rewards that it cannot use."""

    def __init__(self, run: Run, family: Family, sampling: Sampling) -> None:
        self.config: ImageGenerateConfig = run.config
        self.family = family
        self.sampling = sampling
        self.rewards: Rewards = open_rewards(
            run.reward, modality="image", device=run.device, precision=self.config.precision
        )
        if self.rewards.needs_references:
            raise BadInput("a comparison with reference answers is for text", field="reward")
        if self.config.search == "guidance" or (
            self.config.search == "noise" and self.config.search_noise_by == "gradient"
        ):
            self.rewards.differentiable()
        native = family.native_size
        self.height, self.width = sampling.height or native[0], sampling.width or native[1]
        schedule = schedule_of(
            family, steps=sampling.num_inference_steps, height=self.height, width=self.width
        )
        eta = 0.0 if self.config.search == "noise" else self.config.search_eta
        self.sampler = ddim(schedule, eta=eta)
        self.empty = None if family.reads_guidance else family.encode_prompts([""])
        self._prompts: dict[str, Conditioning] = {}

    def draw(self, request: Request) -> Found:
        """The picture that the search finds from this seed."""
        with torch.no_grad():
            task = self._task(request)
        latents = SEARCHES[self.config.search](task)
        with torch.no_grad():
            pixels = self.family.decode_latents(latents)
        image = to_image(pixels[0])
        return Found(
            image, float(self._frozen(lambda: self.rewards.parts([request.prompt], [image])).total[0])
        )

    def _task(self, request: Request) -> Task:
        prompt = request.prompt

        def score(latents: Tensor) -> Tensor:
            images = [to_image(self.family.decode_latents(one[None])[0]) for one in latents]
            found = self._frozen(lambda: self.rewards.parts([prompt] * len(images), images))
            total = rank_sum(found.parts) if self.config.search_ranks else found.total
            return total.nan_to_num(nan=-torch.inf).to(latents.device)

        def promise(latents: Tensor, calls: int) -> Tensor:
            with ExitStack() as early:
                for source in self.rewards.sources:
                    if isinstance(source, PictureReward):
                        early.enter_context(source.judging_after(calls / self.sampler.steps))
                return score(latents)

        def differentiable(latents: Tensor) -> Tensor:
            # A picture is no brighter than white, whatever the latents say.
            pixels = self.family.decode_latents(latents).clamp(-1, 1)
            return self._frozen(lambda: self.rewards.score_pixels([prompt] * len(pixels), pixels)).total

        return Task(
            Walk.of(self._denoiser(prompt), self.sampler),
            self.sampler,
            score,
            promise,
            differentiable,
            one_generator(request.seed),
            self.family.latent_shape(self.height, self.width),
            self.config,
            self.family.device,
        )

    def _frozen(self, score: Callable[[], Scored]) -> Scored:
        """Scores that leave the multipliers of constraints as they are."""
        kept = self.rewards.state()
        found = score()
        self.rewards.load_state(kept)
        return found

    def _denoiser(self, prompt: str) -> Denoise:
        """The model at one prompt, for any number of latents, at most ``batch_size`` at once."""
        if prompt not in self._prompts:
            self._prompts = {prompt: self.family.encode_prompts([prompt])}
        told, scale = self._prompts[prompt], self.sampling.guidance_scale

        def one_batch(x: Tensor, time: float) -> Tensor:
            guidance = None
            if self.empty is not None and scale > 1:
                guidance = Guidance(scale, _repeated(self.empty, len(x)))
            denoise = guided_denoiser(
                self.family,
                self.family.denoiser,
                told_guidance(self.family, _repeated(told, len(x)), scale=scale),
                guidance=guidance,
                autocast=torch.bfloat16 if self.config.precision == "bf16" else None,
            )
            return denoise(x, time)

        def denoise(x: Tensor, time: float) -> Tensor:
            return torch.cat([one_batch(part, time) for part in x.split(self.config.batch_size)])

        return denoise


def _repeated(conditioning: Conditioning, count: int) -> Conditioning:
    return {name: value.expand(count, *value.shape[1:]) for name, value in conditioning.items()}


def by_selection(task: Task) -> Tensor:
    """``best_of_n``."""
    config, steps = task.config, task.walk.steps
    calls = sorted({max(1, round(share * steps)) for share in config.search_cuts})
    cuts = [Cut(one, config.search_share) for one in calls if one < steps]
    noise = task.noise(config.search_size)
    return best_of_n(task.walk, task.score, noise, cuts=cuts, generators=task.generator, promise=task.promise)


def by_particles(task: Task) -> Tensor:
    """``particles``: the best of them."""
    config = task.config
    found = steer(
        task.walk,
        task.score,
        task.noise(config.search_size),
        at=task.steps_between()[:: config.search_every],
        potential=config.search_potential,
        strength=config.search_strength,
        adaptive=config.search_adaptive,
        generator=task.generator,
    )
    return found.best


def by_candidates(task: Task) -> Tensor:
    """``candidates``."""
    config = task.config
    return search_candidates(
        task.walk,
        task.score,
        task.noise(1),
        count=config.search_size,
        temperature=0.0 if config.search_greedy else 1 / config.search_strength,
        generator=task.generator,
    )


def by_noise(task: Task) -> Tensor:
    """``noise``: the best starting noise found, drawn without chance."""
    config, rate = task.config, task.config.search_learning_rate

    def draw(noise: Tensor) -> Tensor:
        return task.walk.draw(noise, generators=task.generator)

    if config.search_noise_by == "gradient":
        settings = ByGradient(iterations=config.search_iterations)
        settings = replace(settings, learning_rate=rate or settings.learning_rate)
        noise = optimise_noise(draw, task.differentiable, task.noise(1), settings)
    else:
        rounds = ByPolicy(rounds=config.search_iterations, samples=config.search_size)
        rounds = replace(rounds, learning_rate=rate or rounds.learning_rate)
        fitted = fit_noise(draw, task.score, task.shape, rounds, generator=task.generator, device=task.device)
        noise = fitted.sample(1, task.generator)
    with torch.no_grad():
        return draw(noise)


def by_guidance(task: Task) -> Tensor:
    """``guidance``."""
    within = task.steps_between()

    def value(noisy: Tensor, clean: Tensor, index: int) -> Tensor:
        return task.differentiable(clean)

    steered = guided(task.walk, task.sampler, value, weight=task.config.search_strength)

    def propose(latents: Tensor, index: int) -> Proposal:
        return (steered if index in within else task.walk).propose(latents, index)

    with torch.no_grad():
        return Walk(propose, task.walk.steps).draw(task.noise(1), generators=task.generator)


SEARCHES: dict[str, Callable[[Task], Tensor]] = {
    "best_of_n": by_selection,
    "particles": by_particles,
    "candidates": by_candidates,
    "noise": by_noise,
    "guidance": by_guidance,
}
