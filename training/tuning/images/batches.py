"""Groups of pictures as tensors: latents and embeddings once, noise and timesteps for every epoch."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from training.tuning.images.data import Frame, Named, TensorCache, open_image, to_pixels, weights_hash
from training.tuning.images.errors import Draw, NoisyGroups, draw_for_group
from training.tuning.images.families import Family
from training.tuning.images.groups import ImageGroup

ENCODE_PIXELS = 2**18  # pictures are encoded this many pixels at a time: one of 512 × 512


@dataclass(frozen=True)
class DrawSettings:
    """What noise is drawn from; see ``draw_for_group``."""

    seed: int
    timesteps: Sequence[int]
    flip: bool
    caption_dropout: float


class PreparedGroups:
    """Groups whose latents and prompt embeddings are on disk; ``batch`` joins some of them with fresh
    noise.
    """

    def __init__(
        self,
        groups: Sequence[ImageGroup],
        family: Family,
        *,
        draws: DrawSettings,
        folder: Path,
        on_batch: Callable[[], None],
        people: dict[str, Tensor] | None = None,
    ) -> None:
        self.people = people
        self.groups = list(groups)
        self.family = family
        self.draws = draws
        self.latents = TensorCache(folder / "latents")
        self.prompts = TensorCache(folder / "prompts")
        self.vae_hash = weights_hash(family.pipeline.vae)
        self.text_hash = _hash(*map(weights_hash, family.encoders))
        self._file_hashes: dict[Path, str] = {}
        self._encode_images(on_batch)
        self._encode_prompts(on_batch)
        family.rest()

    @property
    def sizes(self) -> list[int]:
        """Pixels of each group."""
        return [group.pixels for group in self.groups]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Height and width of each group's pictures: only groups of one shape share a micro-batch."""
        return [(group.frame.height, group.frame.width) for group in self.groups]

    def weight(self, indices: Sequence[int]) -> float:
        """The sum of the weights of these groups' pairs."""
        return sum(pair.weight for index in indices for pair in self.groups[index].pairs)

    def speed(self, micro_batches: Sequence[Sequence[int]], *, seconds: float) -> dict[str, float]:
        """Pictures per second, and positions of their latents, which are what an image model has for
        tokens.
        """
        groups = [self.groups[index] for micro in micro_batches for index in micro]
        images = sum(len(group.files) for group in groups)
        positions = sum(group.pixels for group in groups) // self.family.pipeline.vae_scale_factor**2
        return {"images_per_second": images / seconds, "tokens_per_second": positions / seconds}

    def batch(self, indices: Sequence[int], *, epoch: int) -> NoisyGroups:
        """The groups of these positions as one micro-batch, with the noise that they have in this epoch."""
        latents, owner, noise, timesteps, conditioning = [], [], [], [], []
        for position, index in enumerate(indices):
            group = self.groups[index]
            draw = self._draw(group, epoch)
            clean = [self._latents(file, group.frame, draw.flip) for file in group.files]
            latents += clean
            owner += [position] * len(clean)
            noise.append(draw.noise)
            timesteps.append(draw.timestep)
            told = self.prompts.load(self._prompt_key("" if draw.drop_caption else group.prompt))
            if self.people is not None and group.person is not None:
                told = {**told, "person": self.people[group.person][None] * (not draw.drop_caption)}
            conditioning.append(told)
        device = self.family.device
        return NoisyGroups(
            latents=torch.stack(latents).to(device),
            owner=torch.tensor(owner, device=device),
            noise=torch.stack(noise).to(device),
            timesteps=torch.tensor(timesteps, device=device),
            conditioning={
                name: torch.stack([one[name] for one in conditioning]).to(device) for name in conditioning[0]
            },
        )

    def _draw(self, group: ImageGroup, epoch: int) -> Draw:
        shape = self._latents(group.files[0], group.frame, False).shape
        return draw_for_group(
            seed=self.draws.seed,
            group=group.name,
            epoch=epoch,
            shape=shape,
            timesteps=self.draws.timesteps,
            flip=self.draws.flip,
            caption_dropout=self.draws.caption_dropout,
        )

    def _latents(self, file: Path, frame: Frame, flip: bool) -> Float[Tensor, "C h w"]:
        return self.latents.load(self._image_key(file, frame, flip))["latents"]

    def _encode_images(self, on_batch: Callable[[], None]) -> None:
        by_size: dict[tuple[int, int], list[tuple[Path, Frame, bool]]] = defaultdict(list)
        for group in self.groups:
            for file in group.files:
                for flip in (False, True) if self.draws.flip else (False,):
                    by_size[group.frame.height, group.frame.width].append((file, group.frame, flip))
        for (height, width), pictures in by_size.items():

            def compute(indices: list[int], pictures: list[tuple[Path, Frame, bool]] = pictures) -> Named:
                pixels = torch.stack([_pixels(*pictures[index]) for index in indices])
                return {"latents": self.family.encode_images(pixels)}

            self.latents.fill(
                [self._image_key(*picture) for picture in pictures],
                compute,
                batch_size=max(1, ENCODE_PIXELS // (height * width)),
                on_batch=on_batch,
            )

    def _encode_prompts(self, on_batch: Callable[[], None]) -> None:
        prompts = [group.prompt for group in self.groups] + [""] * (self.draws.caption_dropout > 0)
        self.prompts.fill(
            [self._prompt_key(prompt) for prompt in prompts],
            lambda indices: self.family.encode_prompts([prompts[index] for index in indices]),
            batch_size=64,
            on_batch=on_batch,
        )

    def _image_key(self, file: Path, frame: Frame, flip: bool) -> str:
        if file not in self._file_hashes:
            self._file_hashes[file] = hashlib.sha256(file.read_bytes()).hexdigest()
        return _hash(self.vae_hash, self._file_hashes[file], frame, flip)

    def _prompt_key(self, prompt: str) -> str:
        return _hash(self.text_hash, prompt)


def _pixels(file: Path, frame: Frame, flip: bool) -> Float[Tensor, "3 H W"]:
    pixels = to_pixels(frame.apply(open_image(file)))
    return pixels.flip(-1) if flip else pixels


def _hash(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
