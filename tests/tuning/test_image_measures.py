"""Rewards of pictures as tensors: values by hand, gradients, and the same numbers as of files."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from tests.tuning.image_models import save_clip
from training.tuning.config import ImageRewardModelConfig
from training.tuning.errors import BadInput
from training.tuning.images import measures
from training.tuning.images.data import to_image, to_pixels
from training.tuning.images.resampling import cover, resize
from training.tuning.images.reward_files import reward_for_training, save_image_reward
from training.tuning.rewards.compose import Rewards, open_rewards
from training.tuning.rewards.spec import parse_rewards

CPU = torch.device("cpu")


def of_levels(*rows: list[tuple[float, float, float]]) -> Tensor:
    """A picture (1, 3, H, W) from its RGB levels, 0 to 1."""
    return torch.tensor([rows], dtype=torch.float32).permute(0, 3, 1, 2) * 2 - 1


def opened(*entries: dict[str, object]) -> Rewards:
    return open_rewards(parse_rewards(entries, modality="image"), modality="image", device=CPU)


def test_measures_by_hand() -> None:
    """Red beside green: luma 0.299 and 0.587; R - G is ±1, ½ (R + G) - B is ½ twice: σ = 1, μ = ½."""
    picture = of_levels([(1, 0, 0), (0, 1, 0)])
    assert measures.brightness(picture).item() == pytest.approx(0.443)
    assert measures.contrast(picture).item() == pytest.approx(0.144)
    assert measures.saturation(picture).item() == pytest.approx(1)
    assert measures.colourfulness(picture).item() == pytest.approx(1 + 0.3 * 0.5)
    # Beside its edges each pixel sees the other once: ±0.288, with mean 0.
    assert measures.sharpness(picture).item() == pytest.approx(0.288**2)
    assert measures.closeness(picture, [0.5, 0.5, 0.0]).item() == pytest.approx(1)
    assert measures.closeness(picture, [0.5, 0.5, 1.0]).item() == pytest.approx(1 - 1 / math.sqrt(3))
    # Half of a colour's brightest channel is saturation ½; black has none.
    assert measures.saturation(of_levels([(0.8, 0.4, 0.4), (0, 0, 0)])).item() == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "colourfulness", "sharpness"])
def test_gradients_of_measures(name: str) -> None:
    """Against differences, in float64; none is NaN where a picture is flat."""
    generator = torch.Generator().manual_seed(1)
    pixels, direction = torch.rand(2, 2, 3, 4, 5, generator=generator, dtype=torch.float64) * 1.6 - 0.8
    pixels.requires_grad_()
    measure = getattr(measures, name)
    (gradient,) = torch.autograd.grad(measure(pixels).sum(), pixels)
    with torch.no_grad():
        ahead, behind = (measure(pixels + step * direction).sum() for step in (1e-6, -1e-6))
    assert (gradient * direction).sum().item() == pytest.approx((ahead - behind).item() / 2e-6, rel=1e-6)
    for level in (-1.0, 0.0, 1.0):
        flat = torch.full((1, 3, 4, 4), level, requires_grad=True)
        assert torch.autograd.grad(measure(flat).sum(), flat)[0].isfinite().all()


@pytest.mark.parametrize("size", [(30, 20), (100, 64), (7, 40), (16, 16)])
def test_scaling_is_pillows(size: tuple[int, int]) -> None:
    """To its rounding to bytes, once for each direction; levels are kept from ringing over the ends."""
    levels = np.random.default_rng(0).integers(80, 176, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    pixels = to_pixels(image)[None]
    squeezed = to_pixels(image.resize((16, 12), Image.Resampling.BICUBIC))
    fitted = to_pixels(ImageOps.fit(image, (16, 12), method=Image.Resampling.LANCZOS))
    for ours, theirs in (
        (resize(pixels, 12, 16, kernel="bicubic")[0], squeezed),
        (cover(pixels, 12, 16)[0], fitted),
    ):
        assert (ours - theirs).abs().max() * 127.5 < 1.2


@pytest.mark.parametrize("kind", ["small", "clip"])
def test_learned_and_closed_form_rewards_are_one_function(kind: str, tmp_path: Path) -> None:
    """Of tensors as of files, pictures of another size than the model's; the gradient is the difference."""
    base = None if kind == "small" else str(save_clip(tmp_path / "clip"))
    model = reward_for_training(base, ImageRewardModelConfig(), seed=0)
    with torch.no_grad():
        model.head.mlp[-1].weight.normal_(generator=torch.Generator().manual_seed(1))
    save_image_reward(model, tmp_path / "model")
    rewards = opened(
        {"model": str(tmp_path / "model"), "weight": 2.0, "transform": "sigmoid"},
        {"rule": "colourfulness", "gate": {"entry": 2, "least": 0.1}},
        {"rule": "colour:#ff8800", "weight": -1.0},
        {"python": "tests.tuning.test_image_measures:redness"},
    )
    generator = torch.Generator().manual_seed(4)
    images = [to_image(torch.rand(3, 24, 40, generator=generator) * 1.4 - 0.7) for _ in range(3)]
    prompts = ["a b", "a b", "c"]
    pixels = torch.stack([to_pixels(image) for image in images]).requires_grad_()
    scored = rewards.score_pixels(prompts, pixels)
    of_files = rewards.parts(prompts, images)
    torch.testing.assert_close(scored.parts.detach(), of_files.parts, atol=1e-5, rtol=1e-4)
    assert scored.metrics(rewards.labels)["reward"] == pytest.approx(of_files.total.mean().item(), abs=1e-5)
    (gradient,) = torch.autograd.grad(scored.total.sum(), pixels)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        ahead, behind = (
            rewards.score_pixels(prompts, pixels + step * direction).total.sum() for step in (3e-3, -3e-3)
        )
    assert gradient.norm().item() == pytest.approx((ahead - behind).item() / 6e-3, rel=2e-2)
    # One picture's score does not depend on another's pixels.
    (alone,) = torch.autograd.grad(rewards.score_pixels(prompts, pixels).total[1], pixels)
    assert alone[0].abs().max() == alone[2].abs().max() == 0 < alone[1].abs().max()


def redness(prompts: list[str], pixels: Tensor) -> Tensor:
    """A function that says it is differentiable."""
    return pixels[:, 0].mean(dim=(1, 2)) * torch.tensor([float(len(prompt)) for prompt in prompts])


redness.differentiable = True  # type: ignore[attr-defined]


def fileness(prompts: list[str], images: list[Image.Image]) -> list[float]:
    return [0.0 for _ in images]


@pytest.mark.parametrize(
    "entry",
    [
        {"rule": "jpeg_size"},
        {"rule": "aspect:1"},
        {"python": "tests.tuning.test_image_measures:fileness"},
    ],
)
def test_what_has_no_gradient_is_named(entry: dict[str, object]) -> None:
    rewards = opened({"rule": "brightness"}, entry)
    label = next(iter(entry.values()))
    with pytest.raises(BadInput, match=rf"reward\.1.*{label} has no gradient.*brightness"):
        rewards.score_pixels(["p"], torch.zeros(1, 3, 4, 4))
    with pytest.raises(BadInput, match="reference answers has no gradient"):
        opened({"rule": "brightness", "transform": "sigmoid_centred"}).differentiable()
