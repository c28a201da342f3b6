"""Pairs of pictures and their edits: rich preference optimisation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline
from PIL import Image

from tests.tuning.image_models import save_pipeline, tiny_unet
from tests.tuning.image_runs import make_run, metrics, read_rows, run
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_DONE
from training.tuning.methods.image_edit import make_pairs
from training.tuning.run import Run
from training.tuning.rundir import RunDir

LIGHT = [{"rule": "brightness"}]


class Shade:
    """Makes everything lighter by so much, and remembers what it was told."""

    def __init__(self, amount: int) -> None:
        self.amount = amount
        self.told: list[str] = []

    def edit(self, image: Image.Image, instruction: str, *, seed: int) -> Image.Image:
        self.told.append(instruction)
        return Image.fromarray((np.asarray(image).astype(int) + self.amount).clip(0, 255).astype(np.uint8))


def critique_rows(media: Path) -> list[dict[str, Any]]:
    """Two pictures with a critique, one without, and a pair of which it is unclear whom it means."""
    media.mkdir(parents=True, exist_ok=True)
    for number, shade in enumerate((90, 140)):
        Image.new("RGB", (19, 16), (shade, shade, shade)).save(media / f"{number}.png")
    said = {"critique": "make it lighter", "annotator": "ann"}
    return [
        {"prompt": "a b", "candidates": [{"image": "0.png"}], "judgements": [said]},
        {
            "prompt": "c d",
            "candidates": [{"image": "1.png"}],
            "judgements": [said, {"critique": "and warmer"}],
        },
        {"prompt": "c d", "candidates": [{"image": "1.png"}], "judgements": [{"thumbs": [1]}]},
        {"prompt": "a", "candidates": [{"image": "0.png"}, {"image": "1.png"}], "judgements": [said]},
    ]


def edited(folder: Path, editor: Shade, **config: Any) -> list[dict[str, Any]]:
    made = make_run(
        folder,
        "image_edit",
        base="editor",
        config=config,
        rows=critique_rows(folder / "data" / "media"),
        reward=LIGHT,
    )
    make_pairs(Run(RunDir(made)), editor)
    return read_rows(made / "result" / "selected.jsonl")


@pytest.mark.system("s000-044")
def test_the_reward_says_which_of_the_two_is_better(tmp_path):
    """No change: no pair. Lighter by 20 of 255: the edit wins each. Darker: the original does."""
    same, lighter, darker = Shade(0), Shade(20), Shade(-20)
    assert edited(tmp_path / "same", same) == []
    for name, editor, winner in (("lighter", lighter, 1), ("darker", darker, 0)):
        rows = edited(tmp_path / name, editor)
        assert [row["prompt"] for row in rows] == ["a b", "c d"]
        assert [row["judgements"] for row in rows] == [[{"kind": "judge", "choice": winner}]] * 2
        first = rows[0]["candidates"]
        media = tmp_path / name / "result" / "media"
        before, after = (np.asarray(Image.open(media / one["image"])).mean() for one in first)
        assert after - before == pytest.approx(editor.amount)
    assert lighter.told == ["make it lighter", "make it lighter and warmer"]


def test_small_gaps_are_left_out_and_all_scores_are_told(tmp_path):
    """Brightness from 0 to 1: 20 of 255 are 0.078. The same in edits.jsonl, with what was asked."""
    assert edited(tmp_path / "wide", Shade(20), margin=0.08) == []
    rows = edited(tmp_path / "run", Shade(20), margin=0.07, instruction="Please: {critique}.")
    assert len(rows) == 2
    told = read_rows(tmp_path / "run" / "result" / "edits.jsonl")
    assert told[0]["instruction"] == "Please: make it lighter."
    assert told[0]["scores"][1] - told[0]["scores"][0] == pytest.approx(20 / 255, abs=1e-5)
    assert Image.open(tmp_path / "run" / "result" / "media" / "000000-original.png").size == (16, 16)


@pytest.mark.system("s000-044")
def test_the_pairs_are_trained_on(tmp_path):
    """The rows go to Diffusion-DPO as they are."""
    rows = edited(tmp_path / "edits", Shade(40))
    folder = tmp_path / "dpo"
    (folder / "data").mkdir(parents=True)
    (tmp_path / "edits" / "result" / "media").rename(folder / "data" / "media")
    config = {"max_steps": 1, "samples": 0, "log_every": 1, "lora": {"r": 2, "alpha": 2}}
    made = make_run(folder, "diffusion_dpo", base=save_pipeline(tmp_path / "base"), config=config, rows=rows)
    assert run(made) == EXIT_DONE
    assert metrics(made)[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)


def save_editor(folder: Path) -> Path:
    """InstructPix2Pix for 16 × 16 pictures: its U-Net reads the picture's latents too."""
    plain = StableDiffusionPipeline.from_pretrained(save_pipeline(folder / "plain"))
    torch.manual_seed(0)
    StableDiffusionInstructPix2PixPipeline(
        unet=tiny_unet(in_channels=8),
        vae=plain.vae,
        text_encoder=plain.text_encoder,
        tokenizer=plain.tokenizer,
        scheduler=plain.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "editor", safe_serialization=True)
    return folder / "editor"


def test_an_editor_of_diffusers(tmp_path, capsys):
    """A run from the command line; the edit is the pipeline's own of the same seed; others are refused."""
    editor = save_editor(tmp_path)
    config = {"num_inference_steps": 2, "guidance_scale": 2.0}
    given = {"config": config, "reward": LIGHT}
    media = tmp_path / "run" / "data" / "media"
    folder = make_run(tmp_path / "run", "image_edit", base=editor, rows=critique_rows(media), **given)
    assert run(folder) == EXIT_DONE
    rows = read_rows(folder / "result" / "edits.jsonl")
    assert [row["prompt"] for row in rows] == ["a b", "c d"]
    pictures = [Image.open(folder / "result" / "media" / one["image"]) for one in rows[0]["candidates"]]
    assert pictures[0].size == pictures[1].size == (16, 16)
    assert np.abs(np.asarray(pictures[0]).astype(int) - np.asarray(pictures[1])).max() > 0
    made = json.loads((folder / "state.json").read_text())
    assert made["status"] == "done"
    wrong = make_run(
        tmp_path / "wrong", "image_edit", base=tmp_path / "plain", rows=critique_rows(media), **given
    )
    assert run(wrong) == EXIT_BAD_INPUT
    assert "edits nothing" in capsys.readouterr().err
