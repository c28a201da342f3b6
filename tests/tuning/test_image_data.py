"""Pictures as tensors: framing, what chance decides, and what a group's candidates share."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tuning.image_models import save_picture, save_pipeline
from training.tuning.config import DiffusionDPOConfig
from training.tuning.data import Candidate, Group, Judgement
from training.tuning.images.batches import DrawSettings, PreparedGroups
from training.tuning.images.data import Frame, TensorCache, open_image, to_image, to_pixels
from training.tuning.images.errors import draw_for_group
from training.tuning.images.families import Family, load_family
from training.tuning.images.groups import (
    Framing,
    ImageGroup,
    Limits,
    preferred,
    select_groups,
    upright_size,
)
from training.tuning.images.pair_index import index_pairs
from training.tuning.pairs import Pair

CPU = torch.device("cpu")
SETTINGS = {
    "seed": 1,
    "shape": (4, 8, 8),
    "timesteps": range(100, 900),
    "flip": True,
    "caption_dropout": 0.25,
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return load_family(str(save_pipeline(tmp_path_factory.mktemp("pipeline"))), device=CPU)


def test_draws_depend_on_seed_group_and_epoch_alone():
    first = draw_for_group(group="train:1", epoch=0, **SETTINGS)
    again = draw_for_group(group="train:1", epoch=0, **SETTINGS)
    assert torch.equal(first.noise, again.noise)
    assert (first.timestep, first.flip, first.drop_caption) == (
        again.timestep,
        again.flip,
        again.drop_caption,
    )
    others = [
        draw_for_group(group="train:2", epoch=0, **SETTINGS),
        draw_for_group(group="train:1", epoch=1, **SETTINGS),
        draw_for_group(group="train:1", epoch=0, **SETTINGS | {"seed": 2}),
    ]
    assert all(not torch.equal(first.noise, other.noise) for other in others)


def test_draws_are_spread_as_asked():
    draws = [draw_for_group(group=f"train:{line}", epoch=0, **SETTINGS) for line in range(2000)]
    times = np.array([draw.timestep for draw in draws])
    assert times.min() >= 100
    assert times.max() < 900
    # Means of 2,000 uniform draws and shares of 2,000 coin flips, five standard errors wide.
    assert abs(times.mean() - 499.5) < 26
    assert abs(np.mean([draw.flip for draw in draws]) - 0.5) < 0.056
    assert abs(np.mean([draw.drop_caption for draw in draws]) - 0.25) < 0.049
    noise = torch.stack([draw.noise for draw in draws])
    assert abs(noise.mean().item()) < 0.008
    assert abs(noise.std().item() - 1) < 0.006
    plain = SETTINGS | {"flip": False, "caption_dropout": 0.0}
    unmoved = [draw_for_group(group=f"train:{line}", epoch=0, **plain) for line in range(50)]
    assert not any(draw.flip or draw.drop_caption for draw in unmoved)


def test_pixels_and_back():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    pixels = to_pixels(picture)
    assert pixels.shape == (3, 5, 7)
    assert -1 <= pixels.min() < pixels.max() <= 1
    assert to_image(pixels).tobytes() == picture.tobytes()


def test_pictures_are_upright_and_on_white(tmp_path):
    sideways = Image.new("RGB", (8, 4), "red")
    exif = sideways.getexif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it right
    sideways.save(tmp_path / "sideways.jpg", exif=exif)
    assert upright_size(tmp_path / "sideways.jpg") == open_image(tmp_path / "sideways.jpg").size == (4, 8)
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_image(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    Image.new("L", (2, 2), 7).save(tmp_path / "grey.png")
    assert open_image(tmp_path / "grey.png").getpixel((0, 0)) == (7, 7, 7)


def test_frames():
    halves = Image.new("RGB", (8, 4), "black")
    halves.paste("white", (4, 0, 8, 4))
    left, right = Frame(4, 4, across=0.0).apply(halves), Frame(4, 4, across=1.0).apply(halves)
    assert np.asarray(left).max() == 0
    assert np.asarray(right).min() == 255
    assert Frame(4, 8).apply(halves) is halves
    assert Frame(2, 2).apply(halves).size == (2, 2)


def group(line: int, *images: str, prompt: str = "a b") -> Group:
    return Group(
        prompt=prompt,
        candidates=[Candidate(image=image) for image in images],
        judgements=[Judgement(choice=0)],
        line=line,
    )


def select(groups: list[Group], media: Path, framing: Framing) -> tuple[list[ImageGroup], list[str | None]]:
    return select_groups(
        groups,
        part="train",
        media=media,
        choose=preferred(DiffusionDPOConfig()),
        limits=Limits(None, len),
        framing=framing,
    )


def test_a_random_crop_is_one_for_a_group(tmp_path):
    for number in range(6):
        save_picture(tmp_path / f"{number}.png", seed=number, width=64)
    groups = [group(line, f"{2 * line}.png", f"{2 * line + 1}.png") for line in range(3)]
    found, _ = select(groups, tmp_path, Framing(16, random_crop=True, multiple=4, seed=0))
    assert len({one.frame.across for one in found}) == 3
    assert all(len(one.files) == 2 for one in found)
    again, _ = select(groups[1:], tmp_path, Framing(16, random_crop=True, multiple=4, seed=0))
    assert [one.frame for one in again] == [one.frame for one in found[1:]]
    centred, _ = select(groups, tmp_path, Framing(16, random_crop=False, multiple=4, seed=0))
    assert {(one.frame.across, one.frame.down) for one in centred} == {(0.5, 0.5)}


def test_candidates_without_a_pair_are_left_out(tmp_path):
    for number in range(3):
        save_picture(tmp_path / f"{number}.png", seed=number)
    ranked = Group(
        prompt="a b",
        candidates=[Candidate(image=f"{number}.png") for number in range(3)],
        judgements=[Judgement(ranking=[[2], [1]])],
    )
    (found,), _ = select([ranked], tmp_path, Framing(None, random_crop=False, multiple=4, seed=0))
    assert [file.name for file in found.files] == ["1.png", "2.png"]
    assert found.pairs == [Pair(chosen=1, rejected=0)]


def test_pairs_of_several_groups_are_joined():
    pairs = index_pairs([[Pair(1, 0)], [Pair(0, 2, 2.0, 0.75), Pair(1, 2)]], [2, 3], device=CPU)
    assert pairs.chosen.tolist() == [1, 2, 3]
    assert pairs.rejected.tolist() == [0, 4, 4]
    assert pairs.weight.tolist() == [1, 2, 1]
    assert pairs.target.tolist() == [1, 0.75, 1]


def test_a_group_shares_noise_timestep_flip_and_caption(family, tmp_path):
    """Over many draws: both candidates of a group are mirrored or neither, and get one prompt or none."""
    for number in range(4):
        save_picture(tmp_path / f"{number}.png", seed=number)
    chosen, _ = select(
        [group(1, "0.png", "1.png"), group(2, "2.png", "3.png", prompt="c")],
        tmp_path,
        Framing(None, random_crop=False, multiple=4, seed=0),
    )
    draws = DrawSettings(seed=3, timesteps=range(1000), flip=True, caption_dropout=0.5)
    prepared = PreparedGroups(chosen, family, draws=draws, folder=tmp_path / "cache", on_batch=lambda: None)
    pictures = torch.stack([to_pixels(open_image(tmp_path / f"{number}.png")) for number in range(4)])
    plain, mirrored = family.encode_images(pictures), family.encode_images(pictures.flip(-1))
    prompts = family.encode_prompts(["a b", "c", ""])["embeddings"]
    seen = set()
    for epoch in range(24):
        batch = prepared.batch([0, 1], epoch=epoch)
        assert batch.owner.tolist() == [0, 0, 1, 1]
        for one in (0, 1):
            of_group = slice(2 * one, 2 * one + 2)
            latents = batch.latents[of_group]
            embedding = batch.conditioning["embeddings"][one]
            flipped = torch.allclose(latents, mirrored[of_group], atol=1e-5)
            assert flipped or torch.allclose(latents, plain[of_group], atol=1e-5)
            dropped = torch.allclose(embedding, prompts[2], atol=1e-5)
            assert dropped or torch.allclose(embedding, prompts[one], atol=1e-5)
            seen.add((flipped, dropped))
    assert len(seen) == 4
    alone = prepared.batch([1], epoch=5)
    both = prepared.batch([0, 1], epoch=5)
    assert torch.equal(alone.noise[0], both.noise[1])
    assert alone.timesteps[0] == both.timesteps[1]


def test_cache_computes_the_same_batches_after_a_kill(tmp_path):
    """Of a batch that was half stored all is computed again, so that rounding cannot differ."""
    cache = TensorCache(tmp_path)
    keys = ["aa", "bb", "aa", "cc", "dd"]
    asked: list[list[int]] = []

    def compute(indices: list[int]) -> dict[str, torch.Tensor]:
        asked.append(indices)
        return {"value": torch.tensor([[float(index)] for index in indices])}

    cache.fill(keys, compute, batch_size=2, on_batch=lambda: None)
    assert asked == [[0, 1], [3, 4]]
    cache.path("dd").rename(cache.path("dd").with_suffix(".part"))
    TensorCache(tmp_path).fill(keys, compute, batch_size=2, on_batch=lambda: None)
    assert asked[2:] == [[3, 4]]
    assert TensorCache(tmp_path).load("dd")["value"].item() == 4
