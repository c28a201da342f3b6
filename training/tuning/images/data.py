"""From image files to tensors: framing, and latents and prompt embeddings kept on disk.

Latents and prompt embeddings are computed once per run and looked up by the hash of all that they
depend on: the file's bytes, the framing, and the weights that encode.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Frame:
    """How a picture becomes the size a model is trained at; one for all candidates of a group.

    height, width: of the result, in pixels. across, down: where the crop lies, 0 left or top,
    1 right or bottom.
    """

    height: int
    width: int
    across: float = 0.5
    down: float = 0.5

    def apply(self, image: Image.Image) -> Image.Image:
        """Scale (Lanczos) until the frame is just covered, then crop. The right size passes untouched."""
        if image.size == (self.width, self.height):
            return image
        return ImageOps.fit(
            image,
            (self.width, self.height),
            method=Image.Resampling.LANCZOS,
            centering=(self.across, self.down),
        )


def open_image(path: Path) -> Image.Image:
    """A picture as RGB: upright (EXIF), transparency on white. ``reading.check_image`` has measured and
    decoded it.
    """
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")


def to_pixels(image: Image.Image) -> Float[Tensor, "3 H W"]:
    """RGB picture → float32 in -1..1."""
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def to_image(pixels: Float[Tensor, "3 H W"]) -> Image.Image:
    """Float in -1..1 → RGB picture."""
    levels = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names, shapes, types and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


Named = Mapping[str, Tensor]


class TensorCache:
    """Named tensors on disk under the hash of what they were computed from.

    Files appear by rename, so that one half-written at a kill is never read. The first ``memory``
    bytes that are loaded stay in memory too.
    """

    def __init__(self, folder: Path, *, memory: int = 2**28) -> None:
        self.folder = folder
        self._room = memory
        self._loaded: dict[str, Named] = {}

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def load(self, key: str) -> Named:
        if key in self._loaded:
            return self._loaded[key]
        values: Named = load_file(self.path(key))
        size = sum(value.nbytes for value in values.values())
        if size <= self._room:
            self._room -= size
            self._loaded[key] = values
        return values

    def fill(
        self,
        keys: Sequence[str],
        compute: Callable[[list[int]], Named],
        *,
        batch_size: int,
        on_batch: Callable[[], None],
    ) -> None:
        """Compute what is missing: ``compute`` gets indices into ``keys``, at most ``batch_size``, and gives
        tensors with a row for each.

        Batches are cut from the whole list, whatever is there already: after an interruption every
        value comes from the same batch, and so to the same bits. ``on_batch`` is called before
        each; it may raise in order to stop.
        """
        first_with = {key: index for index, key in reversed(list(enumerate(keys)))}
        distinct = sorted(first_with.values())
        for start in range(0, len(distinct), batch_size):
            indices = distinct[start : start + batch_size]
            if all(self.path(keys[index]).exists() for index in indices):
                continue
            on_batch()
            found = compute(indices)
            for row, index in enumerate(indices):
                self._store(keys[index], {name: value[row] for name, value in found.items()})

    def _store(self, key: str, values: Named) -> None:
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        save_file({name: value.detach().cpu().contiguous() for name, value in values.items()}, partial)
        partial.replace(path)
