"""What every method that draws pictures as it trains does around its updates.

    online = ImageOnline(run, reference=config.beta > 0)
    sampler = ddim(online.schedule, eta=1.0)                     # images/schedules.py
    for step in online.steps(trained, optimizer):                # resumes
        drawn = online.draw(step, sampler)                       # pictures of the step's prompts, scored
        for micro in drawn.micros:                               # as they were sampled: ratios are exactly 1
            denoise = online.denoiser(online.policy.denoiser, micro.prompts)
            ...replay(denoise, sampler, micro.chain, index)...   # images/trajectories.py
        online.end_step(step, drawn.metrics | …)                 # logs, evaluates, saves
    online.publish()

Every picture has a seed of its own (run, prompt, step, number), so that neither batches nor an interruption
change what is drawn. ``drawn.rewards`` is (G, k), prompts by pictures; flat, pictures stand in the order of
prompts, and ``micro.rows`` says which of them a micro-batch holds.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from training.tuning.errors import BadInput
from training.tuning.images.data import to_image
from training.tuning.images.direct import publish
from training.tuning.images.generation import Request, generate_images, plan_requests, sample_seed
from training.tuning.images.loading import load_for_training
from training.tuning.images.policies import ImagePolicy
from training.tuning.images.preparation import autocast, remove_cache
from training.tuning.images.prompts import Encoded, EncodedPrompts, open_prompts
from training.tuning.images.resampling import resize
from training.tuning.images.samples import draw_samples, sampling_for
from training.tuning.images.schedules import Sampler, schedule_of
from training.tuning.images.trajectories import (
    Chain,
    Denoise,
    Guidance,
    draw_noise,
    guided_denoiser,
    sample,
    told_guidance,
)
from training.tuning.plan import make_plan
from training.tuning.rewards.compose import Scored, open_rewards
from training.tuning.rewards.pictures import PictureReward
from training.tuning.rewards.spec import RewardEntry
from training.tuning.run import Run

PIXELS = 2**20  # of pictures in one micro-batch: four of 512 × 512
COMPARED = 8  # height and width at which the pictures of a prompt are compared


@dataclass(frozen=True)
class Micro:
    """Pictures that were drawn, and are read again, in one batch. ``rows``: which of the step's."""

    rows: slice
    prompts: list[str]
    chain: Chain


@dataclass(frozen=True)
class Start:
    """Pictures of a step before they are drawn: N of its ``total``, each with its generator."""

    prompts: list[str]
    generators: list[torch.Generator]
    noise: Float[Tensor, "N C h w"]
    total: int


@dataclass(frozen=True)
class Drawn:
    """k pictures of each of G prompts, N in all, with their rewards. ``pixels``: in -1..1."""

    prompts: list[str]
    micros: list[Micro]
    pixels: Float[Tensor, "N 3 H W"]
    pictures: list[Image.Image]
    rewards: Float[Tensor, "G k"]
    scored: Scored
    metrics: dict[str, float]

    @property
    def latents(self) -> Float[Tensor, "N C h w"]:
        """The finished latents, in the order of the pictures."""
        return torch.cat([micro.chain.final for micro in self.micros])


class ImageOnline:
    """Prompts, a policy that draws them, what it started from, and who judges the pictures."""

    def __init__(self, run: Run, *, reference: bool) -> None:
        """``reference``: whether ``policy.as_reference`` is needed, which without LoRA takes a copy."""
        config = run.config
        self.run = run
        self.policy = self.load_policy(reference=reference)
        self.family = self.policy.family
        if config.gradient_checkpointing:
            self.policy.denoiser.enable_gradient_checkpointing()
        self.rewards = open_rewards(
            self.reward_entries(), modality="image", device=run.device, precision=config.precision
        )
        if self.rewards.needs_references:
            raise BadInput("a comparison with reference answers is for text", field="reward")
        self.sampling = sampling_for(config, self.family)
        native = self.family.native_size
        self.height, self.width = self.sampling.height or native[0], self.sampling.width or native[1]
        if self.height % self.family.pixel_multiple or self.width % self.family.pixel_multiple:
            problem = f"height and width must be multiples of {self.family.pixel_multiple} pixels"
            raise BadInput(problem, field="config.height")
        self.schedule = schedule_of(
            self.family, steps=self.sampling.num_inference_steps, height=self.height, width=self.width
        )
        self.open_prompts()
        self.family.rest()
        self.plan = make_plan([1] * len(self.prompts), config=config, seed=run.seed, budget=config.batch_size)
        self._started = 0.0

    # What special frames do in their own way

    def load_policy(self, *, reference: bool) -> ImagePolicy:
        """What is trained."""
        run = self.run
        return load_for_training(
            run.base, lora=run.config.lora, keep_copy=reference, seed=run.seed, device=run.device
        )

    def reward_entries(self) -> list[RewardEntry]:
        """Those of the reward list that are rewards."""
        return self.run.reward

    def open_prompts(self) -> None:
        """Read and encode ``prompts``; read ``held_out``."""
        run = self.run
        self.prompts = open_prompts(run, self.family, run.train)
        self.held_out = open_prompts(run, self.family, run.eval)
        self.encoded: Encoded = self.encode_prompts(self.prompts)

    def encode_prompts(self, prompts: Sequence[str]) -> EncodedPrompts:
        """Some prompts, and none."""
        folder = self.run.dir.path / "cache" / "prompts"
        return EncodedPrompts(self.family, [*prompts, ""], folder=folder, on_batch=self.run.check_stop)

    @property
    def labels(self) -> list[str]:
        """A name for every reward."""
        return self.rewards.labels

    def judge(self, prompts: Sequence[str], pictures: list[Image.Image]) -> Scored:
        """What the rewards say of finished pictures."""
        return self.rewards.parts(prompts, pictures)

    def draw_finished(self, requests: Sequence[Request]) -> list[Image.Image]:
        """A picture for each request, drawn as the result will be."""
        return generate_images(self.family, requests, self.sampling)

    def shown(self, prompt: str) -> str:
        """What people see of a prompt."""
        return prompt

    # Steps

    def steps(
        self,
        trained: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        keep: dict[str, Tensor] | None = None,
    ) -> Iterator[int]:
        """The steps that are left, after a checkpoint if there is one; the first attempt shows samples."""
        run = self.run
        done = run.begin(trained, optimizer, total_steps=self.plan.total_steps, keep=keep)
        self.rewards.load_state(run.memory.get("multipliers", self.rewards.state()))
        if done == 0:
            self._draw_samples(0, "before")
        for step in run.steps(done):
            run.check_stop()
            self._started = time.perf_counter()
            yield step

    def end_step(self, step: int, metrics: dict[str, Any]) -> None:
        """Log, evaluate on held-out prompts if it is time, save if it is time."""
        run = self.run
        run.memory["multipliers"] = self.rewards.state()
        pictures = len(self.prompts_of(step)) * run.config.num_generations
        run.log(step, metrics | {"images_per_second": pictures / (time.perf_counter() - self._started)})
        if self.held_out and self.labels and run.due(run.config.eval_every, step):
            run.log_eval(step, self.evaluate())
        run.end_step(step)

    def publish(self) -> None:
        """Samples after training, and the policy as the result."""
        self._draw_samples(self.run.total_steps, "after")
        publish(self.run, self.policy)
        remove_cache(self.run)

    # Pictures

    def draw(
        self,
        step: int,
        sampler: Sampler,
        *,
        module: nn.Module | None = None,
        first: int = 0,
        branches: int = 1,
    ) -> Drawn:
        """k pictures of each prompt of a step, by ``module`` or the policy; chains are kept from step
        ``first`` on.

        Each ``branches`` pictures of a prompt go one way up to there (at 0: begin at the same noise), and
        part at the next step with chance; it divides k. With 1 the pictures do not depend on ``first``.
        """
        module = self.policy.denoiser if module is None else module
        prompts, count = self.prompts_of(step), self.run.config.num_generations
        asked = [prompt for prompt in prompts for _ in range(count)]
        generators = [self._generator(prompt, step, at % count) for at, prompt in enumerate(asked)]
        ways = []
        for here in self._slices(len(asked) // branches):
            self.run.check_stop()
            own = generators[::branches][here]
            denoise = self.denoiser(module, asked[::branches][here])
            ways.append(sample(denoise, sampler, self._start(own), generators=own, end=first).final)
        starts = torch.cat(ways).repeat_interleave(branches, dim=0)
        micros = []
        for here in self._slices(len(asked)):
            self.run.check_stop()
            denoise = self.denoiser(module, asked[here])
            chain = sample(denoise, sampler, starts[here], generators=generators[here], first=first)
            micros.append(Micro(here, asked[here], chain))
        return self._scored(prompts, micros)

    def starts(self, step: int) -> Iterator[Start]:
        """The micro-batches of a step, for methods that draw by themselves."""
        count = self.run.config.num_generations
        rows = [(prompt, number) for prompt in self.prompts_of(step) for number in range(count)]
        for here in self._slices(len(rows)):
            self.run.check_stop()
            generators = [self._generator(prompt, step, number) for prompt, number in rows[here]]
            prompts = [prompt for prompt, _ in rows[here]]
            yield Start(prompts, generators, self._start(generators), len(rows))

    def features(self, drawn: Drawn) -> Float[Tensor, "G k D"]:
        """What tells pictures apart: what the list's first image reward model sees, else a view from afar."""
        seen = [source for source in self.rewards.sources if isinstance(source, PictureReward)]
        found = seen[0].features(drawn.pictures) if seen else from_afar(drawn.pixels)
        return found.unflatten(0, drawn.rewards.shape).to(drawn.rewards.device)

    def prompts_of(self, step: int) -> list[str]:
        """The prompts of a step."""
        return [self.prompts[index] for part in self.plan.step(step) for index in part]

    @property
    def micro_size(self) -> int:
        """Pictures of a forward pass."""
        most: int | None = self.run.config.micro_batch_size
        return most or max(1, PIXELS // (self.height * self.width))

    def denoiser(self, module: nn.Module, prompts: Sequence[str], *, scale: float | None = None) -> Denoise:
        """``module`` at some of the run's prompts, with guidance, the same in drawing and in training.

        ``scale``: another guidance than the run's.
        """
        config, scale = self.run.config, self.sampling.guidance_scale if scale is None else scale
        guidance = None
        if scale > 1 and not self.family.reads_guidance:
            gradient = getattr(config, "guidance_gradient", True)
            guidance = Guidance(scale, self.encoded.without(prompts), gradient)
        return guided_denoiser(
            self.family,
            module,
            told_guidance(self.family, self.encoded.rows(prompts), scale=scale),
            guidance=guidance,
            autocast=autocast(config),
        )

    def minibatches(self, drawn: Drawn, *, key: str) -> list[list[Micro]]:
        """The micro-batches of each update of a pass, in an order of its own."""
        shuffled = list(drawn.micros)
        random.Random(f"{self.run.seed}/minibatches/{key}").shuffle(shuffled)
        count = self.run.config.minibatches
        return [part for at in range(count) if (part := shuffled[at::count])]

    def chosen_steps(self, steps: Sequence[int], *, key: str) -> list[int]:
        """The config's share of these steps of a chain, at least one, in order."""
        count = max(1, round(self.run.config.step_share * len(steps)))
        return sorted(random.Random(f"{self.run.seed}/steps/{key}").sample(list(steps), count))

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Rewards of a picture of every held-out prompt, drawn as the result will be, always at its seed."""
        requests = [row[0] for row in plan_requests(self.held_out, samples_per_prompt=1, seed=self.run.seed)]
        pictures: list[Image.Image] = []
        for here in self._slices(len(requests)):
            self.run.check_stop()
            pictures += self.draw_finished(requests[here])
        self.family.rest()
        kept = self.rewards.state()
        scored = self.judge(self.held_out, pictures)
        self.rewards.load_state(kept)
        return scored.metrics(self.labels)

    # Inside

    def _draw_samples(self, step: int, when: str) -> None:
        shown = {prompt: self.shown(prompt) for prompt in self.held_out or self.prompts}
        draw_samples(self.run, self.family, step=step, when=when, prompts=shown, draw=self.draw_finished)

    @torch.no_grad()
    def _scored(self, prompts: list[str], micros: list[Micro]) -> Drawn:
        pixels = torch.cat([self.family.decode_latents(micro.chain.final).cpu() for micro in micros])
        self.family.rest()
        pictures = [to_image(one) for one in pixels]
        asked = [prompt for micro in micros for prompt in micro.prompts]
        scored = self.judge(asked, pictures)
        metrics = scored.metrics(self.labels)
        kept = scored.total[~scored.total.isnan()]
        total = scored.total.nan_to_num(nan=float(kept.min()) if len(kept) else 0.0)
        rewards = total.to(self.family.device).view(len(prompts), -1)
        if rewards.shape[1] > 1:
            metrics["diversity"] = diversity(pixels.unflatten(0, rewards.shape))
        return Drawn(prompts, micros, pixels, pictures, rewards, scored, metrics)

    def _start(self, generators: list[torch.Generator]) -> Tensor:
        shape = self.family.latent_shape(self.height, self.width)
        return draw_noise(torch.empty(len(generators), *shape, device=self.family.device), generators)

    def _generator(self, prompt: str, step: int, number: int) -> torch.Generator:
        seed = sample_seed(seed=self.run.seed, prompt=prompt, occurrence=step, sample=number)
        return torch.Generator().manual_seed(seed)

    def _slices(self, count: int) -> list[slice]:
        return [slice(at, min(at + self.micro_size, count)) for at in range(0, count, self.micro_size)]


def diversity(pixels: Float[Tensor, "G k 3 H W"]) -> float:
    """Mean distance (root mean square of 0..1) between the pictures of a prompt, seen from afar."""
    count = pixels.shape[1]
    small = from_afar(pixels.flatten(0, 1)) / 2
    features = small.unflatten(0, (-1, count)) / small.shape[1] ** 0.5
    return float(torch.cdist(features, features).sum(dim=(1, 2)).mean() / (count * (count - 1)))


def from_afar(pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
    """Pictures at a few pixels, in -1..1."""
    return resize(pixels, COMPARED, COMPARED, kernel="bicubic").flatten(1)
