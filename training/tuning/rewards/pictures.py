"""Image reward models as a source of rewards."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from training.tuning.data import Text, plain_text
from training.tuning.errors import BadInput
from training.tuning.images.reward_files import load_image_reward
from training.tuning.rewards.sources import Measured, Precision

BATCH = 32


class PictureReward:
    """A result of ``image_reward_model``; candidates are PIL images."""

    def __init__(self, folder: str, *, device: torch.device, precision: Precision = "fp32") -> None:
        self.model = load_image_reward(folder).to(device)
        self.device = device
        self.half = precision == "bf16"

    @torch.no_grad()
    def measure(self, prompts: Sequence[Text], candidates: Sequence[Any]) -> Measured:
        """One output per picture; pictures of one prompt that stand together share its features."""
        parts = []
        for start in range(0, len(candidates), BATCH):
            texts = [plain_text(prompt) for prompt in prompts[start : start + BATCH]]
            runs = [(text, len(list(run))) for text, run in groupby(texts)]
            owner = [number for number, (_, count) in enumerate(runs) for _ in range(count)]
            pixels = torch.stack(
                [self.model.backbone.prepare(image) for image in candidates[start : start + BATCH]]
            )
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
                parts.append(
                    self.model(
                        pixels.to(self.device),
                        torch.tensor(owner, device=self.device),
                        [text for text, _ in runs],
                    ).float()
                )
        return Measured(torch.cat(parts)[:, None])

    def measure_prompt(self, prompt: Text) -> Measured:
        """Always BadInput: there is nothing to see."""
        raise BadInput("a prompt without a picture has no score", field="reward")

    def reduce(self, outputs: Tensor, prompts: Sequence[Text]) -> Tensor:
        """The one output."""
        return outputs[:, 0]
