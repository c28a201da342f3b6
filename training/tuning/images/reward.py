"""Image reward models: a prompt and a picture in, one number out.

An :class:`ImageReward` is a backbone that gives one feature vector per picture and one per prompt, and a
head:

    score = scale · cos(i, t) + MLP([i, t, i ⊙ t])

with i, t normalised features, ``scale`` trained (PickScore, arXiv:2305.01569, is the first term alone) and
the MLP starting at zero. Only differences of scores of one prompt's pictures mean something.
"""

import itertools
import json
import math
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPModel

from training.tuning.errors import BadInput
from training.tuning.images.data import Frame, to_pixels

FORMAT = "tiebreak-image-reward"
WEIGHTS = "head.safetensors"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
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

    def prepare(self, image: Image.Image) -> Float[Tensor, "3 H W"]:
        """The picture as this backbone takes it."""
        size = self.settings["image_size"]
        return to_pixels(
            image.resize((size, size), Image.Resampling.BICUBIC) if image.size != (size, size) else image
        )

    def count_tokens(self, prompt: str) -> int:
        """Words of a prompt."""
        return len(WORD.findall(prompt))

    @property
    def longest_prompt(self) -> int | None:
        """The most words it can read: no limit."""
        return None

    def image_features(self, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N width"]:
        rows = torch.linspace(-1, 1, pixels.shape[2], device=pixels.device)
        columns = torch.linspace(-1, 1, pixels.shape[3], device=pixels.device)
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(len(pixels), -1, -1, -1)
        maps = self.convolutions(torch.cat([pixels, places], dim=1))
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

    def __init__(self, clip: CLIPModel, tokenizer: Any, *, preprocessing: dict[str, Any]) -> None:
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer
        self.settings = preprocessing
        self.width = clip.config.projection_dim
        mean, std = (torch.tensor(preprocessing[key]).view(3, 1, 1) for key in ("mean", "std"))
        self.mean, self.std = mean, std

    def prepare(self, image: Image.Image) -> Float[Tensor, "3 H W"]:
        """Scaled until the model's square is covered, cropped in the middle, normalised."""
        size = self.clip.config.vision_config.image_size
        return ((to_pixels(Frame(size, size).apply(image)) + 1) / 2 - self.mean) / self.std

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt, with the two special ones."""
        return len(self.tokenizer(prompt, truncation=False, verbose=False).input_ids)

    @property
    def longest_prompt(self) -> int | None:
        """The most tokens it can read."""
        return self.clip.config.text_config.max_position_embeddings

    def image_features(self, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N width"]:
        return self.clip.get_image_features(pixel_values=pixels).pooler_output

    def text_features(self, prompts: Sequence[str]) -> Float[Tensor, "G width"]:
        limit = self.longest_prompt
        tokens = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(self.clip.device)
        return self.clip.get_text_features(**tokens).pooler_output


Backbone = SmallBackbone | ClipBackbone


class RewardHead(nn.Module):
    """scale · cos(i, t) + MLP([i, t, i ⊙ t]); the MLP's last layer starts at zero. Always float32."""

    def __init__(self, width: int, *, hidden: int, scale: float) -> None:
        super().__init__()
        self.settings = {"hidden": hidden}
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.mlp = nn.Sequential(nn.Linear(3 * width, hidden), nn.SiLU(), nn.Linear(hidden, 1, bias=False))
        nn.init.zeros_(self.mlp[2].weight)

    def forward(self, image: Float[Tensor, "N width"], text: Float[Tensor, "N width"]) -> Float[Tensor, " N"]:
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        joined = torch.cat([image, text, image * text], dim=-1)
        return self.log_scale.exp() * (image * text).sum(dim=-1) + self.mlp(joined).squeeze(-1)


class ImageReward(nn.Module):
    """Backbone and head. ``scores`` is what a program calls; ``forward`` what training calls."""

    def __init__(self, backbone: Backbone, head: RewardHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(
        self, pixels: Float[Tensor, "N 3 H W"], owner: Int[Tensor, " N"], prompts: Sequence[str]
    ) -> Float[Tensor, " N"]:
        """The score of each of N prepared pictures, (N,), float32. ``owner`` is the index of its prompt."""
        return self.head(self.backbone.image_features(pixels), self.backbone.text_features(prompts)[owner])

    @torch.no_grad()
    def scores(self, prompt: str, images: Sequence[Image.Image]) -> list[float]:
        """One score per RGB picture; higher is better."""
        device = self.head.log_scale.device
        pixels = torch.stack([self.backbone.prepare(image) for image in images]).to(device)
        return self(pixels, torch.zeros(len(images), dtype=torch.long, device=device), [prompt]).tolist()


def small_reward(*, image_size: int, width: int, hidden: int, seed: int, buckets: int = 2048) -> ImageReward:
    """A fresh small model; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = SmallBackbone(image_size=image_size, width=width, buckets=buckets)
        return ImageReward(backbone, RewardHead(width, hidden=hidden, scale=1.0))


def clip_reward(base: str, *, hidden: int, seed: int) -> ImageReward:
    """A pretrained CLIP, from a local folder or hub id, with a fresh head that starts as its own image-text
    score.
    """
    backbone = load_clip(base)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scale = backbone.clip.logit_scale.exp().item()
        return ImageReward(backbone, RewardHead(backbone.width, hidden=hidden, scale=scale))


def load_clip(base: str) -> ClipBackbone:
    """CLIPModel with tokenizer, float32. Raises BadInput for other models, pickles and a missing
    tokenizer.
    """
    folder = Path(base)
    if folder.exists() and not any(folder.glob("*.safetensors")):
        pickles = [
            path for path in sorted(folder.glob("*")) if path.suffix in {".bin", ".pt", ".ckpt", ".pth"}
        ]
        if pickles:
            raise BadInput(
                "weights are a pickle, which can run code; only safetensors are read", file=pickles[0]
            )
        raise BadInput(
            "no weights (*.safetensors); give a CLIP folder, or base null to start from nothing", file=base
        )
    local = folder.exists()
    try:
        clip = CLIPModel.from_pretrained(
            base, dtype=torch.float32, use_safetensors=True, local_files_only=local
        )
    except (OSError, ValueError) as error:
        raise BadInput(f"the CLIP model cannot be loaded: {error}", file=base) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=local)
    except (OSError, ValueError) as error:
        raise BadInput(f"the folder has no tokenizer that can be loaded: {error}", file=base) from error
    return ClipBackbone(clip, tokenizer, preprocessing=read_preprocessing(folder))


def read_preprocessing(folder: Path) -> dict[str, Any]:
    """Mean and standard deviation of preprocessor_config.json; without one, CLIP's."""
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text()) if path.is_file() else {}
    return {"mean": settings.get("image_mean", CLIP_MEAN), "std": settings.get("image_std", CLIP_STD)}


def save_image_reward(model: ImageReward, folder: Path) -> None:
    """Write ``config.json`` and ``head.safetensors``; a CLIP backbone goes to ``backbone/`` in transformers
    format.

    A small backbone's weights are in ``head.safetensors`` too. The documented layout: names that begin with
    ``head.`` are the head above, those with ``backbone.`` the small backbone.
    """
    backbone = model.backbone
    config = {
        "format": FORMAT,
        "backbone": {"kind": backbone.kind, **backbone.settings},
        "head": model.head.settings,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = model.state_dict()
    if isinstance(backbone, ClipBackbone):
        backbone.clip.save_pretrained(folder / "backbone", safe_serialization=True)
        backbone.tokenizer.save_pretrained(folder / "backbone")
        weights = {name: value for name, value in weights.items() if name.startswith("head.")}
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, folder / WEIGHTS)


def is_image_reward(folder: Path) -> bool:
    """Whether ``save_image_reward`` wrote this folder."""
    path = folder / "config.json"
    return path.is_file() and json.loads(path.read_text()).get("format") == FORMAT


def load_image_reward(folder: str | Path) -> ImageReward:
    """The reward model in a result folder, on the CPU, in evaluation mode. Raises BadInput for other
    folders.
    """
    folder = Path(folder)
    if not is_image_reward(folder):
        raise BadInput("not an image reward model (the result of the method image_reward_model)", file=folder)
    config = json.loads((folder / "config.json").read_text())
    settings = dict(config["backbone"])
    if settings.pop("kind") == ClipBackbone.kind:
        backbone: Backbone = load_clip(str(folder / "backbone"))
        backbone.settings = settings
    else:
        backbone = SmallBackbone(**settings)
    model = ImageReward(backbone, RewardHead(backbone.width, scale=1.0, **config["head"]))
    missing, unexpected = model.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    wrong = [*unexpected, *(name for name in missing if not name.startswith("backbone.clip."))]
    if wrong:
        raise BadInput(f"weights do not fit the model: {', '.join(wrong[:3])}", file=folder / WEIGHTS)
    return model.eval()
