"""What a chain will probably earn, seen from one of its noisy states: the baseline of DPOK."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.tuning.images.families import Conditioning


class LatentValue(nn.Module):
    """V(x_t, prompt, t), a small network of its own; 0 everywhere at first.

    Latents pass two convolutions and are averaged; the prompt is the mean of its embeddings; t is read as
    waves of σ_t. ``width`` units each.
    """

    def __init__(self, *, channels: int, features: int, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.latents = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.SiLU(),
        )
        self.prompt = nn.Linear(features, width)
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.Linear(4 * width, width), nn.SiLU(), last)

    def forward(
        self, x: Float[Tensor, "N C h w"], conditioning: Conditioning, sigma: float
    ) -> Float[Tensor, " N"]:
        """One value for each picture."""
        seen = self.latents(x)
        pooled = torch.cat([seen.mean(dim=(2, 3)), seen.amax(dim=(2, 3))], dim=1)
        asked = self.prompt(conditioning["embeddings"].mean(dim=1))
        waves = torch.arange(self.width // 2, device=x.device) * (math.pi / 2) * sigma
        time = torch.cat([waves.sin(), waves.cos()]).expand(len(x), -1)
        return self.head(torch.cat([pooled, asked, time], dim=1))[:, 0]
