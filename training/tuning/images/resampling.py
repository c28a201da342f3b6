"""Scaling of pictures, with a gradient: the same numbers as Pillow's, but for its rounding to bytes."""

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Kernel = Literal["bicubic", "lanczos"]


def resize(pixels: Float[Tensor, "N C H W"], height: int, width: int, *, kernel: Kernel) -> Tensor:
    """(N, C, height, width). Where a picture shrinks the kernel widens; what rings over -1..1 is cut off."""
    tall, wide = pixels.shape[2:]
    return _apply(pixels, (0.0, float(tall)), (0.0, float(wide)), height, width, kernel)


def cover(pixels: Float[Tensor, "N C H W"], height: int, width: int) -> Float[Tensor, "N C height width"]:
    """Scaled (Lanczos) until the frame is just covered, and cropped in the middle: PIL's ``ImageOps.fit``."""
    tall, wide = pixels.shape[2:]
    if wide / tall >= width / height:
        down, across = float(tall), tall * width / height
    else:
        down, across = wide * height / width, float(wide)
    top, left = (tall - down) / 2, (wide - across) / 2
    return _apply(pixels, (top, top + down), (left, left + across), height, width, "lanczos")


def _apply(
    pixels: Tensor,
    rows: tuple[float, float],
    columns: tuple[float, float],
    height: int,
    width: int,
    kernel: Kernel,
) -> Tensor:
    if pixels.shape[2:] == (height, width) and (rows[0], columns[0]) == (0, 0):
        return pixels
    down = _weights(pixels.shape[2], rows, height, kernel).to(pixels)
    across = _weights(pixels.shape[3], columns, width, kernel).to(pixels)
    return torch.einsum("nchw,yh,xw->ncyx", pixels, down, across).clamp(-1, 1)


@cache
def _weights(size: int, box: tuple[float, float], out: int, kernel: Kernel) -> Float[Tensor, "out size"]:
    """Row i: the weights of the ``size`` inputs in output i of ``out``, which stand for ``box`` of them."""
    value, support = _KERNELS[kernel]
    step = (box[1] - box[0]) / out
    widened = max(step, 1.0)
    centres = box[0] + (torch.arange(out, dtype=torch.float64) + 0.5) * step
    distances = (torch.arange(size, dtype=torch.float64) + 0.5 - centres[:, None]) / widened
    weights = torch.where(distances.abs() < support, value(distances), 0.0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _bicubic(x: Tensor) -> Tensor:
    """Keys' cubic with a = -½."""
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, far)


def _lanczos(x: Tensor) -> Tensor:
    """sinc(x) sinc(x / 3)."""
    return torch.sinc(x) * torch.sinc(x / 3)


_KERNELS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}
