"""Guidance away from a negative model: it answers where otherwise the model without prompt does
(Diffusion-NPO, arXiv:2505.11245, and Self-NPO, arXiv:2505.11777).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image

from training.tuning.errors import BadInput
from training.tuning.images.bases import adapter_beside, resolve_base
from training.tuning.images.chains import pictures_of
from training.tuning.images.families import Family
from training.tuning.images.generation import Request, Sampling
from training.tuning.images.policies import POLICY, load_adapter
from training.tuning.images.schedules import ddim, schedule_of
from training.tuning.images.trajectories import Denoise, guided_denoiser, sample, start_noise

NEGATIVE = "negative"


class NegativeModel:
    """A model and an adapter of the same base that it is guided away from.

    The negative's weights are base + (1 - merge) · the model's own adapter + the negative adapter.
    """

    def __init__(self, family: Family, *, base: str | None, negative: str, merge: float) -> None:
        own = resolve_base(base)
        adapter = adapter_beside(
            negative,
            own,
            needed="a negative model is an adapter, as self_npo makes one",
            field="reward.0.model",
        )
        if family.reads_guidance:
            problem = "guidance was distilled into this model: there is nothing to replace"
            raise BadInput(problem, field="config.guide_away")
        load_adapter(family, adapter, name=NEGATIVE)
        self.family = family
        self.own = own.adapter is not None
        self.merge = merge
        self._use_own()

    @contextmanager
    def active(self) -> Iterator[None]:
        """The denoiser is the negative model; afterwards, also after an exception, the model itself."""
        weights = {NEGATIVE: 1.0} | ({POLICY: 1 - self.merge} if self.own and self.merge < 1 else {})
        denoiser = self.family.denoiser
        try:
            denoiser.enable_adapters()
            denoiser.set_adapters(list(weights), list(weights.values()))
            yield
        finally:
            self._use_own()

    def denoiser(self, prompts: Sequence[str], *, scale: float, autocast: torch.dtype | None) -> Denoise:
        """n + scale · (c - n), of the negative model without prompt and the model with it."""
        family = self.family
        told = guided_denoiser(family, family.denoiser, family.encode_prompts(prompts), autocast=autocast)
        empty = family.encode_prompts([""] * len(prompts))
        away = guided_denoiser(family, family.denoiser, empty, autocast=autocast)

        def denoise(x: torch.Tensor, time: float) -> torch.Tensor:
            with self.active():
                negative = away(x, time)
            return negative + scale * (told(x, time) - negative)

        return denoise

    @torch.no_grad()
    def draw(
        self, requests: Sequence[Request], sampling: Sampling, *, autocast: torch.dtype | None
    ) -> list[Image.Image]:
        """A picture for each request, without noise on the way, each from its seed."""
        native = self.family.native_size
        height, width = sampling.height or native[0], sampling.width or native[1]
        schedule = schedule_of(self.family, steps=sampling.num_inference_steps, height=height, width=width)
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        start = start_noise(self.family.latent_shape(height, width), generators, self.family.device)
        denoise = self.denoiser(
            [request.prompt for request in requests], scale=sampling.guidance_scale, autocast=autocast
        )
        chain = sample(denoise, ddim(schedule, eta=0.0), start, generators=generators)
        return pictures_of(self.family, chain.final)

    def _use_own(self) -> None:
        if self.own:
            self.family.denoiser.set_adapters([POLICY], [1.0])
        else:
            self.family.denoiser.disable_adapters()
