"""The demo's picture world, and the model of it that ships."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from webapp.demo import image_world as world

SHIPPED = Path(world.__file__).parent / "models" / "image"
PROMPT = "a red circle on a yellow background"
MIDDLE = world.SIDE / 2


def scene(radius: float = 9.0, x: float = MIDDLE, y: float = MIDDLE, **other: str) -> world.Scene:
    words = {"colour": "red", "shape": "circle", "background": "yellow"} | other
    return world.Scene(**words, radius=radius, x=x, y=y)


def spoil(change: Callable[[np.ndarray, np.random.Generator], None]) -> Image.Image:
    """A well-drawn picture for PROMPT with its pixels changed."""
    pixels = np.array(world.draw(scene(radius=12)))
    change(pixels, np.random.default_rng(0))
    return Image.fromarray(pixels)


# The world


def test_splits_share_no_combination():
    train, held_out = (
        {(r.colour, r.shape, r.background) for r in map(world.parse, world.prompts(split, 600, 1))}
        for split in ("train", "held_out")
    )
    assert not train & held_out
    assert len(train | held_out) == 6 * 5 * 5
    assert {shape for _, shape, _ in held_out} == set(world.SHAPES)


def test_prompts_repeat_with_the_seed_only():
    assert world.prompts("train", 50, 3) == world.prompts("train", 50, 3)
    assert world.prompts("train", 50, 3) != world.prompts("train", 50, 4)


@pytest.mark.parametrize(
    "prompt", [PROMPT, "an orange cross on a grey background", "a large pink ring on a cyan background"]
)
def test_parse_inverts_prompt(prompt):
    assert world.parse(prompt).prompt == prompt


@pytest.mark.parametrize("prompt", ["", "a red circle", "a huge red circle on a yellow background"])
def test_foreign_prompt_is_named(prompt):
    with pytest.raises(ValueError, match="is not a prompt of the demo's picture world"):
        world.parse(prompt)


def test_named_size_is_drawn_and_open_size_varies():
    rng = np.random.default_rng(0)
    named = [
        world.sample_scene(world.parse("a large red ring on a black background"), rng) for _ in range(50)
    ]
    open_size = [world.sample_scene(world.parse(PROMPT), rng) for _ in range(200)]
    low, high = world.SIZES["large"]
    assert all(low <= s.radius <= high for s in named)
    assert min(s.radius for s in open_size) < world.SIZES["small"][1]
    assert max(s.radius for s in open_size) > low


# The probe


@pytest.mark.parametrize(("noise", "least"), [(0, 1.0), (10, 0.99), (25, 0.95)])
def test_probe_reads_drawn_pictures(noise, least):
    rng = np.random.default_rng(5)
    right = []
    for prompt in world.prompts("train", 110, 5):
        request = world.parse(prompt)
        pixels = np.asarray(world.draw(world.sample_scene(request, rng)), dtype=float)
        pixels += noise * rng.normal(size=pixels.shape)
        reading = world.read(pixels.clip(0, 255).astype(np.uint8))
        right.append(reading is not None and all(reading.matches(request).values()))
    assert np.mean(right) >= least


def test_probe_measures_radius_and_centre():
    reading = world.read(world.draw(scene(radius=7.3, x=12.4, y=20.1, shape="triangle")))
    assert reading.scene.shape == "triangle"
    assert reading.scene.radius == pytest.approx(7.3, abs=0.3)
    assert (reading.scene.x, reading.scene.y) == pytest.approx((12.4, 20.1), abs=0.4)
    assert reading.overlap > 0.95
    assert reading.residual < 0.02


def test_probe_reads_enlarged_pictures():
    large = world.draw(scene()).resize((256, 256), Image.Resampling.NEAREST)
    assert world.read(large) == world.read(world.draw(scene()))


def test_empty_picture_shows_nothing():
    blank = np.full((32, 32, 3), 250, dtype=np.uint8)
    assert world.read(blank) is None
    assert world.utility(PROMPT, blank) == -12


# The taste


def test_large_and_central_is_liked():
    liking = [
        world.utility(PROMPT, world.draw(drawn))
        for drawn in (scene(5, 7, 7), scene(5), scene(8.5), scene(12))
    ]
    assert liking == sorted(liking)
    assert liking[-1] - liking[0] > 3


def test_nothing_is_gained_beyond_large():
    assert (
        world.utility(PROMPT, world.draw(scene(15.9))) <= world.utility(PROMPT, world.draw(scene(12))) + 0.1
    )


def test_named_size_is_wanted():
    prompt = "a small red circle on a yellow background"
    assert world.utility(prompt, world.draw(scene(5))) > world.utility(prompt, world.draw(scene(12))) + 2.5


@pytest.mark.parametrize("wrong", [{"colour": "blue"}, {"shape": "square"}, {"background": "black"}])
def test_each_wrong_attribute_costs_three(wrong):
    right, off = (world.utility(PROMPT, world.draw(drawn)) for drawn in (scene(12), scene(12, **wrong)))
    assert right - off == pytest.approx(3, abs=0.3)


def speckle(pixels, rng):
    pixels[rng.random((32, 32)) < 0.05] = world.COLOURS["red"]


def hole(pixels, rng):
    pixels[13:19, 13:19] = world.BACKGROUNDS["yellow"]


def fog(pixels, rng):
    pixels[:] = (pixels + 40 * rng.normal(size=pixels.shape)).clip(0, 255)


def second_object(pixels, rng):
    pixels[0:4, 0:4] = world.COLOURS["red"]


@pytest.mark.parametrize("change", [speckle, hole, fog, second_object], ids=lambda change: change.__name__)
def test_artefacts_cost(change):
    clean = world.utility(PROMPT, world.draw(scene(12)))
    assert world.utility(PROMPT, spoil(change)) < clean - 0.5


# The model that ships


@pytest.fixture(scope="module")
def manifest():
    return json.loads((SHIPPED / "MANIFEST.json").read_text())


def test_shipped_weights_are_those_of_the_manifest(manifest):
    files = sorted(SHIPPED.rglob("*.safetensors"))
    assert {
        str(file.relative_to(SHIPPED)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    } == manifest["sha256"]
    assert not [file for file in SHIPPED.rglob("*") if file.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*")) < 5.5 * 2**20


def test_shipped_model_draws_what_is_asked_for(manifest):
    """Without guidance the probe reads what was asked for in 0.9 of the manifest's samples, as it says."""
    from webapp.demo import build_image

    samples, seed = manifest["probe_samples"], manifest["seed"] + 4
    found = build_image.probe(build_image.load(SHIPPED), samples, seed)
    assert samples >= 100
    assert min(found.values()) >= 0.9, found
    assert found == pytest.approx(manifest["probe"], abs=0.01)


@pytest.mark.slow
def test_build_trains_repeats_and_goes_on(tmp_path, monkeypatch):
    """A fiftieth of the build: losses fall, the folder loads, and a stopped build ends as if it had not.

    The autoencoder's weights repeat bit by bit. Matrix products round by how memory happens to be aligned, so
    that the denoiser repeats in its loss, which differs by up to 2 % between equal builds in one process.
    """
    from webapp.demo import build_image, stage

    class Stopped(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("denoiser: step"):
            raise Stopped

    def losses(lines: list[str]) -> list[float]:
        return [float(line.split("loss ")[1]) for line in lines if line.startswith("denoiser: step")]

    monkeypatch.setattr(stage, "SAVE_EVERY", 50)
    of_whole: list[str] = []
    of_parts: list[str] = []
    whole = build_image.build(tmp_path / "whole", seed=1, progress=of_whole.append, steps_scale=0.02)
    assert losses(of_whole)[-1] < 0.9 * losses(of_whole)[0]
    with pytest.raises(Stopped):
        build_image.build(tmp_path / "parts", seed=1, progress=stop, steps_scale=0.02)
    parts = build_image.build(tmp_path / "parts", seed=1, progress=of_parts.append, steps_scale=0.02)
    going_on = [line for line in of_parts if "going on" in line]
    assert going_on == ["autoencoder: going on from step 100", "denoiser: going on from step 100"]
    vae = "vae/diffusion_pytorch_model.safetensors"
    assert parts["sha256"][vae] == whole["sha256"][vae]
    assert losses(of_parts)[-1] == pytest.approx(losses(of_whole)[-1], rel=0.05)
    assert build_image.sample(build_image.load(tmp_path / "parts"), [PROMPT], 0)[0].size == (32, 32)
