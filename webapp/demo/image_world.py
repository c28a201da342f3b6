"""A small world of pictures: coloured shapes, prompts about them, and a taste to learn.

Everything here is numpy and PIL. A picture is 32 × 32 pixels: one shape in one colour on a plain
background. A prompt names the colour, the shape and the background ("a red circle on a yellow
background") and may name the size ("a large red circle ..."). What the prompt leaves open, a picture
chooses by itself: always the position, and the size if it is not named.

`read` is a probe without weights: it measures the background, the colour and the shape of any picture by
fitting drawn templates. `utility` is the hidden taste of the simulated annotators, built on the probe.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32  # pixels
SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "green": (40, 160, 60),
    "blue": (50, 80, 220),
    "purple": (140, 50, 170),
    "pink": (250, 130, 190),
}
BACKGROUNDS = {
    "white": (250, 250, 250),
    "black": (15, 15, 15),
    "yellow": (250, 225, 70),
    "grey": (150, 150, 150),
    "cyan": (120, 225, 235),
}
SIZES = {"small": (4.5, 6.0), "medium": (7.5, 9.5), "large": (11.0, 13.0)}  # radius in pixels, from and to
OPEN_SIZES = (0.5, 0.3, 0.2)  # how often each size is drawn when the prompt names none
MARGIN = 1.5  # a drawn shape stays this many pixels inside the picture
HELD_OUT_FRACTION = 0.25

Picture = NDArray[np.uint8] | Image.Image
Split = Literal["train", "held_out"]

_PROMPT = re.compile(
    rf"an? (?:(?P<size>{'|'.join(SIZES)}) )?(?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)})"
    rf" on a (?P<background>{'|'.join(BACKGROUNDS)}) background"
)


@dataclass(frozen=True)
class Request:
    """What a prompt asks for; `size` is None where the prompt leaves it open."""

    colour: str
    shape: str
    background: str
    size: str | None = None

    @property
    def prompt(self) -> str:
        words = f"{self.size or ''} {self.colour} {self.shape} on a {self.background} background".strip()
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@dataclass(frozen=True)
class Scene:
    """One picture before it is drawn; radius and centre in pixels, the picture's corner is (0, 0)."""

    colour: str
    shape: str
    background: str
    radius: float
    x: float
    y: float


@dataclass(frozen=True)
class Reading:
    """What the probe sees in a picture: the best-fitting scene and how well it fits."""

    scene: Scene
    overlap: float  # soft intersection over union of the object and the fitted shape, 0..1
    overlaps: dict[str, float]  # the same for every shape
    residual: float  # root mean square difference to the fitted scene, 0..1 of full scale

    def matches(self, request: Request) -> dict[str, bool]:
        return {
            "colour": self.scene.colour == request.colour,
            "shape": self.scene.shape == request.shape,
            "background": self.scene.background == request.background,
        }


def parse(prompt: str) -> Request:
    """The request behind a prompt; raises ValueError for a prompt that is not of this world."""
    found = _PROMPT.fullmatch(prompt.strip().lower())
    if found is None:
        raise ValueError(
            f"{prompt!r} is not a prompt of the demo's picture world; write for example "
            "'a large red circle on a yellow background'"
        )
    return Request(found["colour"], found["shape"], found["background"], found["size"])


@cache
def _combinations(split: Split) -> tuple[Request, ...]:
    """Requests without a size, divided once and for all: a combination is in one split with all its sizes."""
    every = [Request(c, s, b) for c in COLOURS for s in SHAPES for b in BACKGROUNDS]
    order = np.random.default_rng(0).permutation(len(every))
    held_out = round(HELD_OUT_FRACTION * len(every))
    chosen = order[:held_out] if split == "held_out" else order[held_out:]
    return tuple(every[i] for i in sorted(chosen))


def prompts(split: Split, n: int, seed: int) -> list[str]:
    """`n` prompts of a split, in random order; they repeat only once every combination was used.

    They leave the size open, which gives people something to prefer; the model knows the named sizes too.
    """
    rng = np.random.default_rng(seed)
    pool = _combinations(split)
    order = np.concatenate([rng.permutation(len(pool)) for _ in range(-(-n // len(pool)))])[:n]
    return [pool[index].prompt for index in order]


def sample_scene(request: Request, rng: np.random.Generator) -> Scene:
    """A random picture of what is asked for: position, and size if it is open, are the picture's choice."""
    size = request.size or str(rng.choice(list(SIZES), p=OPEN_SIZES))
    radius = rng.uniform(*SIZES[size])
    x, y = rng.uniform(radius + MARGIN, SIDE - radius - MARGIN, size=2)
    return Scene(request.colour, request.shape, request.background, float(radius), float(x), float(y))


def _distance(shape: str, x: NDArray, y: NDArray, radius: NDArray | float) -> NDArray:
    """Signed distance in pixels to a shape's edge, negative inside; x and y from its centre."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "ring":
        return np.abs(np.hypot(x, y) - 0.75 * radius) - 0.25 * radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.9 * radius
    if shape == "triangle":  # apex at the top, base at the bottom; 2 × radius wide and high
        slope = np.sqrt(1.25)  # of the sides: |x| = (y + radius) / 2
        return np.maximum((np.abs(x) - (y + radius) / 2) / slope, y - radius)
    if shape == "cross":
        a, b, arm = np.abs(x), np.abs(y), 0.34 * radius
        return np.minimum(np.maximum(a - radius, b - arm), np.maximum(a - arm, b - radius))
    raise ValueError(f"no shape is called {shape!r}; the shapes are {', '.join(SHAPES)}")


_COLUMNS = np.arange(SIDE, dtype=np.float32)[None, :] + 0.5
_ROWS = np.arange(SIDE, dtype=np.float32)[:, None] + 0.5


def coverage(shape: str, radius: NDArray | float, x: NDArray | float, y: NDArray | float) -> NDArray:
    """How much of each pixel a shape covers, 0..1. Arrays of n values give (n, 32, 32), floats (32, 32)."""
    radius, x, y = (np.asarray(value, dtype=np.float32)[..., None, None] for value in (radius, x, y))
    distance = _distance(shape, _COLUMNS - x, _ROWS - y, radius)
    return np.clip(0.5 - distance, 0.0, 1.0)


def _paint(cover: NDArray, colour: NDArray, background: NDArray) -> NDArray:
    """Colours (3,) over a cover (32, 32): (32, 32, 3)."""
    return background + cover[..., None] * (colour - background)


def draw(scene: Scene) -> Image.Image:
    """The scene as a 32 × 32 RGB picture with smooth edges."""
    cover = coverage(scene.shape, scene.radius, scene.x, scene.y)
    pixels = _paint(cover, np.array(COLOURS[scene.colour]), np.array(BACKGROUNDS[scene.background]))
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def to_pixels(picture: Picture) -> NDArray[np.float32]:
    """A picture as (32, 32, 3) in 0..255; other sizes are averaged down (or blown up) to 32 × 32."""
    if not isinstance(picture, Image.Image):
        picture = Image.fromarray(np.asarray(picture))
    picture = picture.convert("RGB")
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float32)


# The probe -------------------------------------------------------------------------------------------------

_AREAS = {  # of a shape of radius 1
    "circle": np.pi,
    "ring": np.pi * 0.75,
    "square": 3.24,
    "triangle": 2.0,
    "cross": 4 * 2 * 0.34 - 4 * 0.34**2,
}
_VISIBLE = 40.0  # an object differs from the background by at least this much (Euclidean, of 0..255)


def _nearest(colour: NDArray, palette: dict[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: float(np.square(colour - palette[name]).sum()))


def _overlap(mask: NDArray, templates: NDArray) -> NDArray:
    """Soft intersection over union of a mask (32, 32) with templates (n, 32, 32): (n,)."""
    intersection = np.minimum(mask, templates).sum(axis=(1, 2))
    union = np.maximum(mask, templates).sum(axis=(1, 2))
    return intersection / np.maximum(union, 1e-6)


def _fit(shape: str, mask: NDArray) -> tuple[float, float, float, float]:
    """The radius and centre at which a shape overlaps a mask best: (overlap, radius, x, y).

    A search from the mask's area and centroid, in steps that get finer.
    """
    area = mask.sum()
    best = np.array(
        [np.sqrt(area / _AREAS[shape]), (mask * _COLUMNS).sum() / area, (mask * _ROWS).sum() / area],
        dtype=np.float32,
    )
    if shape == "triangle":  # its centroid lies below the middle of its height
        best[2] -= best[0] / 3
    overlap = 0.0
    for step in (1.0, 1.0, 0.5, 0.25):
        moves = np.stack(np.meshgrid(*[(-step, 0.0, step)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        tried = best + moves.astype(np.float32)
        tried[:, 0] = np.clip(tried[:, 0], 2.0, SIDE / 2)
        overlaps = _overlap(mask, coverage(shape, tried[:, 0], tried[:, 1], tried[:, 2]))
        winner = int(overlaps.argmax())
        overlap, best = float(overlaps[winner]), tried[winner]
    return overlap, float(best[0]), float(best[1]), float(best[2])


def read(picture: Picture) -> Reading | None:
    """What a picture shows, or None where nothing stands out from the background."""
    pixels = to_pixels(picture)
    frame = np.ones((SIDE, SIDE), dtype=bool)
    frame[2:-2, 2:-2] = False
    background = np.median(pixels[frame], axis=0)
    contrast = np.linalg.norm(pixels - background, axis=2)
    # Edges are blends; the colour is read where the contrast is at its fullest.
    strongest = np.sort(contrast, axis=None)[-8:].mean()
    if strongest < _VISIBLE:
        return None
    colour = np.median(pixels[contrast > 0.7 * strongest], axis=0)
    direction = colour - background
    blend = (pixels - background) @ direction / (direction @ direction)
    # Clipped a little inside 0..1, so that faint noise over the whole picture does not count as object.
    mask = np.clip((blend - 0.1) / 0.8, 0.0, 1.0)
    fits = {shape: _fit(shape, mask) for shape in SHAPES}
    shape = max(fits, key=lambda name: fits[name][0])
    overlap, radius, x, y = fits[shape]
    scene = Scene(_nearest(colour, COLOURS), shape, _nearest(background, BACKGROUNDS), radius, x, y)
    ideal = np.asarray(draw(scene), dtype=np.float32)
    return Reading(
        scene=scene,
        overlap=overlap,
        overlaps={name: fit[0] for name, fit in fits.items()},
        residual=float(np.sqrt(np.square(pixels - ideal).mean()) / 255),
    )


# The hidden taste ------------------------------------------------------------------------------------------


def utility(prompt: str, picture: Picture) -> float:
    """How much the simulated annotators like a picture for a prompt, in logits of a choice.

    They want what the prompt says, cleanly drawn: 3 off for each wrong attribute (colour, shape, background,
    and size where it is named, by degrees), up to 6 off for holes, ragged edges and speckle. Where the prompt
    leaves the size open they like the object large, up to 3 better than small, and always in the middle, up
    to 2 worse at the edge. A picture without an object has -12. The taste reads the picture, not the way it
    was made, and gains nothing from an object beyond the largest size.
    """
    request = parse(prompt)
    reading = read(picture)
    if reading is None:
        return -12.0
    matches = reading.matches(request)
    scene = reading.scene
    value = -3.0 * sum(not right for right in matches.values())
    value -= min(6.0, 4.0 * (1 - reading.overlap) + 10.0 * reading.residual)
    middle = SIDE / 2
    value -= 2.0 * min(1.0, float(np.hypot(scene.x - middle, scene.y - middle)) / 12)
    smallest, largest = SIZES["small"][0], SIZES["large"][0]
    if request.size is None:
        value += 3.0 * float(np.clip((scene.radius - smallest) / (largest - smallest), 0.0, 1.0))
    else:
        low, high = SIZES[request.size]
        away = max(low - scene.radius, scene.radius - high, 0.0)
        value -= 3.0 * min(1.0, away / 3)
    return value
