"""Image reward models: a prompt and a picture in, one number out.

An :class:`ImageReward` is a backbone that gives one feature vector per picture and one per prompt, and a
head:

    score = scale · cos(i, t) + MLP([i, t, i ⊙ t])

with i, t normalised features, ``scale`` trained (PickScore, arXiv:2305.01569, is the first term alone) and
the MLP starting at zero. Only differences of scores of one prompt's pictures mean something. A head has an
output for each member of an ensemble, or for each aspect; ``reward.json`` says how they become one score.
On a vision-language model the head is that of ``vision_reward.py``.
"""

import itertools
import math
import re
import zlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import CLIPModel

from training.tuning.images.data import to_pixels
from training.tuning.images.resampling import cover, resize
from training.tuning.images.vision_reward import SkipHead, VisionLanguageBackbone
from training.tuning.rewards.info import RewardInfo
from training.tuning.rewards.transforms import one_score

WORD = re.compile(r"\w+")


class SmallBackbone(nn.Module):
    """A backbone for small data, trained from nothing: a few convolutions, and a bag of words.

    Pictures are scaled to ``image_size`` squared; two channels with the pixels' places are added,
    so that position can matter. A prompt is the bag of its words and word pairs, each hashed to one of
    ``buckets`` embeddings: word pairs tell a red circle on yellow from a yellow circle on red.
    """

    kind = "small"

    def __init__(self, *, image_size: int, width: int, buckets: int) -> None:
        super().__init__()
        self.settings = {"image_size": image_size, "width": width, "buckets": buckets}
        self.width = width
        self.checkpointing = False
        channels = (width // 4, width // 2, width)
        layers: list[nn.Module] = []
        for before, after in zip((5, *channels[:-1]), channels, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.SiLU()]
            layers += [nn.Conv2d(after, after, 3, padding=1), nn.SiLU()]
        self.convolutions = nn.Sequential(*layers)
        self.image_projection = nn.Linear(2 * width, width)
        self.words = nn.EmbeddingBag(buckets, width, mode="sum")
        self.text_projection = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        nn.init.normal_(self.words.weight, std=1 / math.sqrt(width))

    def prepare_pixels(self, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 h w"]:
        """Pictures in -1..1 as this backbone takes them, with a gradient."""
        size = self.settings["image_size"]
        return resize(pixels.float(), size, size, kernel="bicubic")

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the convolutions' activations in the backward pass."""
        self.checkpointing = True

    def count_tokens(self, prompt: str) -> int:
        """Words of a prompt."""
        return len(WORD.findall(prompt))

    @property
    def longest_prompt(self) -> int | None:
        """The most words it can read: no limit."""
        return None

    def read(
        self, pixels: Float[Tensor, "N 3 H W"], owner: Int[Tensor, " N"], prompts: Sequence[str]
    ) -> tuple[Float[Tensor, "N width"], Float[Tensor, "N width"]]:
        """Features of the pictures, and of the prompt of each."""
        return self.image_features(pixels), self.text_features(prompts)[owner]

    def image_features(self, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N width"]:
        rows = torch.linspace(-1, 1, pixels.shape[2], device=pixels.device)
        columns = torch.linspace(-1, 1, pixels.shape[3], device=pixels.device)
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(len(pixels), -1, -1, -1)
        inputs = torch.cat([pixels, places], dim=1)
        if self.checkpointing and torch.is_grad_enabled():
            maps = checkpoint(self.convolutions, inputs, use_reentrant=False)
        else:
            maps = self.convolutions(inputs)
        return self.image_projection(torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1))

    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "G width"]:
        bags = [self._buckets(prompt) for prompt in prompts]
        starts = torch.tensor([0, *(len(bag) for bag in bags[:-1])]).cumsum(0)
        device = self.words.weight.device
        flat = torch.tensor([bucket for bag in bags for bucket in bag], dtype=torch.long)
        return self.text_projection(self.words(flat.to(device), starts.to(device)))

    def _buckets(self, prompt: str) -> list[int]:
        words = WORD.findall(prompt.lower())
        grams = words + [f"{first} {second}" for first, second in itertools.pairwise(words)]
        return [zlib.crc32(gram.encode()) % self.settings["buckets"] for gram in grams]


class ClipBackbone(nn.Module):
    """A pretrained dual encoder: transformers' CLIPModel with its tokenizer."""

    kind = "clip"

    def __init__(self, clip: CLIPModel, tokenizer: Any, *, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer
        self.settings = {"mean": mean, "std": std}
        self.width = clip.config.projection_dim
        self.mean, self.std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)

    def prepare_pixels(self, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 h w"]:
        """Pictures in -1..1, with a gradient: scaled until the model's square is covered, cropped in the
        middle, normalised.
        """
        size = self.clip.config.vision_config.image_size
        seen = cover(pixels.float(), size, size)
        return ((seen + 1) / 2 - self.mean.to(seen)) / self.std.to(seen)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute the layers' activations in the backward pass.

        transformers does so in training mode only, where attention would drop out too: that is turned off.
        """
        for module in self.clip.modules():
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        self.clip.train()
        self.clip.gradient_checkpointing_enable({"use_reentrant": False})

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt, with the two special ones."""
        return len(self.tokenizer(prompt, truncation=False, verbose=False).input_ids)

    @property
    def longest_prompt(self) -> int | None:
        """The most tokens it can read."""
        return self.clip.config.text_config.max_position_embeddings

    def read(
        self, pixels: Float[Tensor, "N 3 H W"], owner: Int[Tensor, " N"], prompts: Sequence[str]
    ) -> tuple[Float[Tensor, "N width"], Float[Tensor, "N width"]]:
        """Features of the pictures, and of the prompt of each."""
        return self.image_features(pixels), self.text_features(prompts)[owner]

    def image_features(self, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N width"]:
        return self.clip.get_image_features(pixel_values=pixels).pooler_output

    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "G width"]:
        limit = self.longest_prompt
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(self.clip.device)
        return self.clip.get_text_features(**tokens).pooler_output


Backbone = SmallBackbone | ClipBackbone | VisionLanguageBackbone


def prepare(backbone: Backbone, images: Sequence[Image.Image]) -> Float[Tensor, "N 3 H W"]:
    """RGB pictures, of whatever sizes, as a backbone takes them."""
    return torch.cat([backbone.prepare_pixels(to_pixels(image)[None]) for image in images])


class RewardHead(nn.Module):
    """scale · cos(i, t) + MLP([i, t, i ⊙ t]), a scale and an MLP for each of K outputs; the MLPs' last layers
    start at zero. Always float32.
    """

    def __init__(self, width: int, *, hidden: int, scale: float, outputs: int = 1) -> None:
        super().__init__()
        self.settings = {"hidden": hidden, "outputs": outputs}
        self.log_scale = nn.Parameter(torch.full((outputs,), math.log(scale)))
        last = nn.Conv1d(hidden * outputs, outputs, 1, groups=outputs, bias=False)
        nn.init.zeros_(last.weight)
        self.mlp = nn.Sequential(
            nn.Linear(3 * width, hidden * outputs), nn.SiLU(), nn.Unflatten(1, (-1, 1)), last
        )

    def forward(
        self, image: Float[Tensor, "N width"], text: Float[Tensor, "N width"]
    ) -> Float[Tensor, "N K"]:
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        joined = torch.cat([image, text, image * text], dim=-1)
        cosines = (image * text).sum(dim=-1, keepdim=True)
        return self.log_scale.exp() * cosines + self.mlp(joined).squeeze(-1)


class ImageReward(nn.Module):
    """Backbone and head. ``scores`` is what a program calls; ``outputs`` what training calls."""

    def __init__(
        self, backbone: Backbone, head: RewardHead | SkipHead, info: RewardInfo | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.info = info or RewardInfo()

    def outputs(
        self, pixels: Float[Tensor, "N 3 H W"], owner: Int[Tensor, " N"], prompts: Sequence[str]
    ) -> Float[Tensor, "N K"]:
        """The head's outputs for each of N prepared pictures, float32. ``owner``: the index of its prompt."""
        return self.head(*self.backbone.read(pixels, owner, prompts))

    def forward(
        self, pixels: Float[Tensor, "N 3 H W"], owner: Int[Tensor, " N"], prompts: Sequence[str]
    ) -> Float[Tensor, " N"]:
        """The score of each of N prepared pictures, (N,), as ``info`` makes it of the outputs."""
        return one_score(self.outputs(pixels, owner, prompts), self.info)

    @torch.no_grad()
    def scores(self, prompt: str, images: Sequence[Image.Image]) -> list[float]:
        """One score per RGB picture; higher is better."""
        device = next(self.head.parameters()).device
        pixels = prepare(self.backbone, images).to(device)
        return self(pixels, torch.zeros(len(images), dtype=torch.long, device=device), [prompt]).tolist()
