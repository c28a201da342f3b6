"""MotionNFT: a reward of motion, editors as policies, and training on edits."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FluxKontextPipeline, FluxPipeline
from PIL import Image, ImageFilter
from safetensors.torch import load_file
from torch import Tensor

from tests.tuning.image_models import save_flux, save_pipeline
from tests.tuning.image_runs import cancelled_after, make_run, metrics, read_rows, run
from tests.tuning.test_image_edit import save_editor
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_DONE, BadInput
from training.tuning.images.data import to_pixels
from training.tuning.images.families import load_family
from training.tuning.images.optical_flow import dense_flow, flow_between
from training.tuning.losses.motion import motion_error, motion_reward
from training.tuning.methods.motion_nft import undecided

CPU = torch.device("cpu")
DIAGONAL = math.hypot(30, 40)  # 50 pixels


def everywhere(right: float, down: float = 0.0) -> Tensor:
    """The same displacement of every pixel of 30 × 40, given over the diagonal."""
    return torch.tensor([right, down], dtype=torch.float64).mul(DIAGONAL).expand(30, 40, 2)


# The reward


@pytest.mark.system("s003-015")
@pytest.mark.parametrize(
    ("flow", "error"),
    [
        # far: x 0 and y 0, each 1e-6^0.4 = 0.0039811; not turned; 0.01 + 0.05 - 0.1 < 0: 0.7 · 0.0039811
        (everywhere(0.1), 0.0027868),
        # far: (0.2^0.4 + 0.0039811) / 2 = (0.5253056 + 0.0039811) / 2 = 0.2646433; turned round: 1
        (everywhere(-0.1), 0.7 * 0.2646433 + 0.2),
        # far: 0.1^0.4 = 0.3981072 on both axes; a right angle: 1/2
        (everywhere(0.0, 0.1), 0.7 * 0.3981072 + 0.2 * 0.5),
        # nothing moved: far (0.3981072 + 0.0039811) / 2 = 0.2010441; no direction is 1/2; still 0.01 + 0.05
        (everywhere(0.0), 0.7 * 0.2010441 + 0.2 * 0.5 + 0.1 * 0.06),
        # half as far: 0.05^0.4 = 0.3017088; (0.3017088 + 0.0039811) / 2 = 0.1528450; 0.06 - 0.05 = 0.01
        (everywhere(0.05), 0.7 * 0.1528450 + 0.1 * 0.01),
    ],
    ids=["same", "opposite", "across", "still", "half"],
)
def test_the_error_of_motion_by_hand(flow: Tensor, error: float) -> None:
    assert float(motion_error(flow, everywhere(0.1))) == pytest.approx(error, abs=2e-6)


@pytest.mark.system("s003-015")
def test_the_reward_of_motion_by_hand() -> None:
    """1 - (error - 0.0039811) / 0.9960189, to fifths."""
    wanted = everywhere(0.1)
    plain = [
        motion_reward(everywhere(*one), wanted, levels=None)
        for one in ((0.1,), (0.05,), (0.0,), (-0.1,), (0.0, 0.1))
    ]
    expected = [1.0, 0.895573, 0.756273, 0.617203, 0.623807]
    assert plain == pytest.approx(expected, abs=2e-5)
    fifths = [
        motion_reward(everywhere(*one), wanted) for one in ((0.1,), (0.05,), (0.0,), (-0.1,), (0.0, 0.1))
    ]
    assert fifths == [1.0, 0.8, 0.8, 0.6, 0.6]
    # Where nothing is wanted, no direction counts: 0.1 · (0.01 - 0) for stillness, which the bound takes off.
    assert motion_reward(everywhere(0.0), everywhere(0.0), levels=None) == pytest.approx(1.0, abs=1e-12)
    # Pixels that shall move by 0.001 of the diagonal have no direction: far is 0.7 · (0.002^0.4 + …) / 2.
    back = float(motion_error(everywhere(-0.001), everywhere(0.001)))
    far = ((0.002 + 1e-6) ** 0.4 + 1e-6**0.4) / 2
    assert back == pytest.approx(0.7 * far + 0.1 * (0.01 + 0.0005 - 0.001), abs=1e-9)


@pytest.mark.system("s003-015")
def test_groups_that_are_decided_teach_nothing() -> None:
    rewards = torch.tensor([[0.2, 0.8], [0.96, 0.84], [0.5, 0.5], [0.45, 0.55]])
    assert undecided(rewards, most_mean=0.9, least_std=0.1).tolist() == [True, False, False, False]


def test_the_flow_of_a_moved_picture() -> None:
    """A blurred picture shifted by 3 and 1 pixels, up to the edges; a function's nonsense is refused."""
    seen = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    first = Image.fromarray(seen).filter(ImageFilter.GaussianBlur(2))
    second = Image.fromarray(np.roll(np.asarray(first), (1, 3), axis=(0, 1)))
    flow = flow_between(dense_flow, to_pixels(first), to_pixels(second))
    assert flow[8:-8, 8:-8].mean(dim=(0, 1)).tolist() == pytest.approx([3.0, 1.0], abs=0.2)
    assert motion_reward(flow, flow) == 1.0
    with pytest.raises(BadInput, match=r"shape \(48, 64, 2\), and gave \(48, 64\)"):
        flow_between(lambda one, other: one[..., 0], to_pixels(first), to_pixels(second))


# Editors


def save_kontext(folder: Path) -> Path:
    plain = FluxPipeline.from_pretrained(save_flux(folder / "plain"))
    parts = {name: part for name, part in plain.components.items() if part is not None}
    FluxKontextPipeline(**parts).save_pretrained(folder / "editor", safe_serialization=True)
    return folder / "editor"


@pytest.mark.parametrize("save", [save_editor, save_kontext], ids=["instruct-pix2pix", "kontext"])
def test_an_editor_says_what_its_pipeline_says(save: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Of the first step: the denoiser is called with the same tensors as diffusers' own pipeline calls it."""
    base = save(tmp_path)
    family = load_family(str(base), device=CPU, edits=True)
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    calls: list[Tensor] = []

    def look(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        calls.append(output[0])

    handle = family.denoiser.register_forward_hook(look, with_kwargs=True)
    seen: list[Tensor] = []

    def first(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    before = family.denoiser.register_forward_pre_hook(first, with_kwargs=True)
    options: dict[str, Any] = {"guidance_scale": 1.0, "num_inference_steps": 1, "image": picture}
    if save is save_kontext:
        options |= {"height": 16, "width": 16, "max_area": 256, "_auto_resize": False}
    family.pipeline(prompt="a b", generator=torch.Generator().manual_seed(0), output_type="np", **options)
    handle.remove()
    before.remove()
    shown = family.encode_source(to_pixels(picture)[None])
    rows = family.encode_prompts(["a b"]) | {"picture": shown}
    if save is save_kontext:
        noisy = family.pipeline._unpack_latents(seen[0][:, :16], 16, 16, family.pipeline.vae_scale_factor)
        rows["guidance"] = torch.ones(1)
        said = family.predict(family.denoiser, noisy, torch.tensor([1000.0]), rows)
        said = family.pipeline._pack_latents(said, 1, *said.shape[1:])
        torch.testing.assert_close(said, calls[0][:, :16], atol=1e-5, rtol=1e-4)
    else:
        torch.testing.assert_close(seen[0][:, 4:], shown, atol=1e-5, rtol=1e-4)
        time = family.pipeline.scheduler.timesteps[:1]
        said = family.predict(family.denoiser, seen[0][:, :4], time, rows)
        torch.testing.assert_close(said, calls[0], atol=1e-5, rtol=1e-4)


# Runs

LIGHTER: dict[str, Any] = {
    "max_steps": 10,
    "batch_size": 2,
    "num_generations": 4,
    "lora": {"r": 4, "alpha": 4, "target_modules": "all-linear"},
    "learning_rate": 1e-2,
    "samples": 0,
    "num_inference_steps": 2,
    "guidance_scale": 1.0,
    "height": 16,
    "width": 16,
    "motion_levels": None,
    "least_std": 0.0,
}


def lighter_is_right(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Every pixel went to the right by as much as the picture got lighter."""
    moved = float(second.mean() - first.mean()) / 255
    return np.stack([np.full(first.shape[:2], 20 * moved), np.zeros(first.shape[:2])], axis=2)


lighter_is_right.estimates_flow = True  # type: ignore[attr-defined]
MOVED = [{"python": "tests.tuning.test_image_motion:lighter_is_right"}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_editor(tmp_path_factory.mktemp("editor"))


def make(folder: Path, base: Path, *, reward: Any = MOVED, **changes: Any) -> Path:
    """Pictures of one grey, whose edit, which was preferred, is white; one instruction for all."""
    media = folder / "data" / "media"
    media.mkdir(parents=True)
    rows = []
    for number, grey in enumerate((60, 100, 140, 180)):
        for name, shade in (("from", grey), ("to", 255)):
            Image.new("RGB", (16, 16), (shade, shade, shade)).save(media / f"{number}-{name}.png")
        candidates = [{"image": f"{number}-to.png"}, {"image": f"{number}-from.png"}]
        rows.append({"prompt": "go right", "candidates": candidates, "judgements": [{"choice": 0}]})
    held_out = rows[3:] if changes.pop("held_out", False) else None
    config = LIGHTER | changes
    return make_run(
        folder, "motion_nft", base=base, config=config, rows=rows[:3], held_out=held_out, reward=reward
    )


@pytest.mark.system("s003-015")
def test_edits_move_as_they_should(base: Path, tmp_path: Path) -> None:
    """The reward of an edit that was never trained on rises; the result edits, as image_edit's base.

    All weights learn: adapters hardly move what so small a pipeline draws.
    """
    before = make(tmp_path / "before", base, held_out=True, lora=None, max_steps=1, learning_rate=1e-9)
    after = make(
        tmp_path / "after", base, held_out=True, lora=None, max_steps=20, learning_rate=0.1, samples=1
    )
    assert run(before) == run(after) == EXIT_DONE
    first, last = (
        [row["eval/reward/motion"] for row in metrics(one) if "eval/reward/motion" in row][-1]
        for one in (before, after)
    )
    assert last > first + 0.005
    shown = read_rows(after / "samples.jsonl")
    assert [(row["when"], row["prompt"]) for row in shown] == [("before", "go right"), ("after", "go right")]
    edited = tmp_path / "edited"
    (edited / "data" / "media").mkdir(parents=True)
    Image.new("RGB", (16, 16), (60, 60, 60)).save(edited / "data" / "media" / "a.png")
    rows = [{"prompt": "a", "candidates": [{"image": "a.png"}], "judgements": [{"critique": "go right"}]}]
    steps = {"num_inference_steps": 2, "guidance_scale": 1.0}
    light = [{"rule": "brightness"}]
    make_run(edited, "image_edit", base=after / "result", config=steps, rows=rows, reward=light)
    assert run(edited) == EXIT_DONE


def test_it_is_the_same_however_interrupted(base: Path, tmp_path: Path) -> None:
    """With guidance and a reward beside motion, which is told the instruction."""
    changes = {"max_steps": 4, "save_every": 1, "guidance_scale": 2.0, "motion_weight": 0.5}
    reward = [*MOVED, {"rule": "brightness", "weight": 0.5}]
    whole, parts = (make(tmp_path / name, base, reward=reward, **changes) for name in ("whole", "parts"))
    assert run(whole) == EXIT_DONE
    with cancelled_after(2):
        assert run(parts) == EXIT_CANCELLED
    assert run(parts) == EXIT_DONE
    ours, theirs = (
        load_file(sorted(one.glob("checkpoint-*"))[-1] / "weights.safetensors") for one in (whole, parts)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    row = metrics(whole)[0]
    both = 0.5 * row["reward/motion"] + 0.5 * row["reward/brightness"]
    assert row["reward"] == pytest.approx(both, rel=1e-5)


@pytest.mark.parametrize("levels", [None, 5])
def test_kontext_and_opencv_s_flow(tmp_path: Path, levels: int | None) -> None:
    """FLUX.1 Kontext learns; where all edits are as good, no weight moves."""
    changes = {"max_steps": 1, "motion_levels": levels, "num_inference_steps": 2}
    folder = make(tmp_path / "run", save_kontext(tmp_path), reward=None, **changes)
    assert run(folder) == EXIT_DONE
    row = metrics(folder)[0]
    assert (row["grad_norm"] > 0) is (row["teaching"] > 0)
    DiffusionPipeline.from_pretrained(tmp_path / "editor").load_lora_weights(folder / "result")


@pytest.mark.parametrize(
    ("method", "kind", "words"),
    [
        ("motion_nft", "plain", "edits no pictures"),
        ("diffusion_nft", "editor", "motion_nft trains it"),
    ],
)
def test_editors_are_for_edits(
    base: Path, tmp_path: Path, method: str, kind: str, words: str, capsys: Any
) -> None:
    other = save_pipeline(tmp_path / "plain")
    folder = make(tmp_path / "run", base if kind == "editor" else other)
    config = {"max_steps": 1, "samples": 0}
    make_run(folder, method, base=base if kind == "editor" else other, config=config, rows=None, reward=MOVED)
    assert run(folder) == EXIT_BAD_INPUT
    assert words in capsys.readouterr().err


def test_rows_that_are_no_edits(base: Path, tmp_path: Path, capsys: Any) -> None:
    folder = make(tmp_path / "run", base)
    told = {"prompt": "a", "candidates": [{"image": "0-to.png"}, {"image": "0-from.png"}]}
    rows = [
        told,
        told | {"judgements": [{"choice": "tie"}]},
        told | {"judgements": [{"choice": 0, "annotator": "ann"}, {"choice": 1, "annotator": "bob"}]},
        {"prompt": "a", "candidates": [{"image": "0-to.png"}], "judgements": [{"thumbs": [1]}]},
    ]
    make_run(folder, "motion_nft", base=base, config=LIGHTER, rows=rows)
    assert run(folder) == EXIT_BAD_INPUT
    assert "no row can be used" in capsys.readouterr().err
