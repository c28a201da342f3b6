"""What can be measured of a picture without a model, each with a gradient to its pixels.

All functions take pictures (N, 3, H, W), RGB in -1..1, and return (N,).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
LAPLACE = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))

Pixels = Float[Tensor, "N 3 H W"]
Scores = Float[Tensor, " N"]


def brightness(pixels: Pixels) -> Scores:
    """Mean luma, 0 to 1."""
    return _luma(pixels).mean(dim=(1, 2))


def contrast(pixels: Pixels) -> Scores:
    """Standard deviation of the luma, 0 to ½."""
    return _spread(_luma(pixels))


def saturation(pixels: Pixels) -> Scores:
    """Mean of (max - min) / max over the channels, HSV's saturation, 0 to 1; black has none."""
    levels = _levels(pixels)
    most, least = levels.amax(dim=1), levels.amin(dim=1)
    lit = most > 0
    return torch.where(lit, (most - least) / torch.where(lit, most, 1), 0).mean(dim=(1, 2))


def colourfulness(pixels: Pixels) -> Scores:
    """√(σ_rg² + σ_yb²) + 0.3 √(μ_rg² + μ_yb²), rg = R - G, yb = ½ (R + G) - B, levels of 0 to 1.

    Hasler and Süsstrunk, "Measuring colourfulness in natural images", 2003 (theirs times 1/255).
    """
    red, green, blue = _levels(pixels).unbind(dim=1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=1).flatten(2)
    means = opponents.mean(dim=2)
    spreads = (opponents - means[:, :, None]) / opponents.shape[2] ** 0.5
    return torch.linalg.vector_norm(spreads, dim=(1, 2)) + 0.3 * torch.linalg.vector_norm(means, dim=1)


def sharpness(pixels: Pixels) -> Scores:
    """Variance of the luma's Laplacian, edges repeated outwards; blur lowers it, and noise raises it."""
    luma = F.pad(_luma(pixels)[:, None], (1, 1, 1, 1), mode="replicate")
    edges = F.conv2d(luma, luma.new_tensor(LAPLACE)[None, None])
    return edges.flatten(1).var(dim=1, unbiased=False)


def closeness(pixels: Pixels, colour: Sequence[float]) -> Scores:
    """1 - the distance of the mean colour to ``colour`` (levels of 0 to 1), as a share of the longest, √3."""
    mean = _levels(pixels).mean(dim=(2, 3))
    return 1 - torch.linalg.vector_norm(mean - mean.new_tensor(colour), dim=1) / 3**0.5


def _levels(pixels: Pixels) -> Pixels:
    """0 to 1; a gradient leaves what a file cannot hold alone."""
    return ((pixels + 1) / 2).clamp(0, 1)


def _luma(pixels: Pixels) -> Float[Tensor, "N H W"]:
    levels = _levels(pixels)
    return torch.einsum("nchw,c->nhw", levels, levels.new_tensor(LUMA))


def _spread(values: Float[Tensor, "N H W"]) -> Scores:
    """Population standard deviation. The norm's gradient is 0, not NaN, where all are alike."""
    flat = values.flatten(1)
    return torch.linalg.vector_norm(flat - flat.mean(dim=1, keepdim=True), dim=1) / flat.shape[1] ** 0.5
