"""Image reward models as a source of rewards."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.data import Text, plain_text
from training.tuning.errors import BadInput
from training.tuning.images.reward import ImageReward, prepare
from training.tuning.images.reward_files import EARLY, load_image_reward
from training.tuning.rewards.sources import Measured, Precision
from training.tuning.rewards.transforms import one_score

BATCH = 32


class PictureReward:
    """A result of ``image_reward_model``; candidates are PIL images."""

    differentiable = True

    def __init__(self, folder: str, *, device: torch.device, precision: Precision = "fp32") -> None:
        self.model = load_image_reward(folder).to(device).requires_grad_(False)
        self.device = device
        self.half = precision == "bf16"
        early = sorted((Path(folder) / EARLY).glob("*"), key=lambda path: float(path.name))
        self.early = {float(path.name): path for path in early}
        self._loaded: dict[float, ImageReward] = {}

    @contextmanager
    def judging_after(self, share: float) -> Iterator[None]:
        """Pictures are meanwhile judged as seen after this share of their steps, if there is a model for
        that: the one whose level is nearest.
        """
        finished = self.model
        if self.early:
            level = min(self.early, key=lambda own: abs(own - share))
            if level not in self._loaded:
                loaded = load_image_reward(self.early[level]).to(self.device)
                self._loaded[level] = loaded.requires_grad_(False)
            self.model = self._loaded[level]
        try:
            yield
        finally:
            self.model = finished

    @torch.no_grad()
    def measure(self, prompts: Sequence[Text], candidates: Sequence[Any]) -> Measured:
        """The outputs of every picture; pictures of one prompt that stand together share its features."""
        parts = []
        for start in range(0, len(candidates), BATCH):
            pixels = prepare(self.model.backbone, candidates[start : start + BATCH]).to(self.device)
            parts.append(self._outputs(prompts[start : start + BATCH], pixels))
        return Measured(torch.cat(parts))

    @torch.no_grad()
    def features(self, candidates: Sequence[Any]) -> Float[Tensor, "N D"]:
        """What the model sees in pictures, whatever the prompt."""
        backbone = self.model.backbone
        parts = [
            backbone.image_features(prepare(backbone, candidates[start : start + BATCH]).to(self.device))
            for start in range(0, len(candidates), BATCH)
        ]
        return torch.cat(parts).float()

    def measure_pixels(self, prompts: Sequence[Text], pixels: Float[Tensor, "N 3 H W"]) -> Measured:
        """The same of pictures in -1..1, with a gradient to them and to nothing else."""
        return Measured(self._outputs(prompts, self.model.backbone.prepare_pixels(pixels)))

    def _outputs(self, prompts: Sequence[Text], pixels: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N K"]:
        runs = [(text, len(list(run))) for text, run in groupby(plain_text(prompt) for prompt in prompts)]
        owner = [number for number, (_, count) in enumerate(runs) for _ in range(count)]
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            outputs = self.model.outputs(
                pixels, torch.tensor(owner, device=self.device), [text for text, _ in runs]
            )
        return outputs.float()

    def measure_prompt(self, prompt: Text) -> Measured:
        """Always BadInput: there is nothing to see."""
        raise BadInput("a prompt without a picture has no score", field="reward")

    def reduce(self, outputs: Tensor, prompts: Sequence[Text]) -> Tensor:
        """One score of each row, as the model's reward.json says."""
        return one_score(outputs, self.model.info)
