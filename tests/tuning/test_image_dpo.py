"""Diffusion-DPO as a run: exact at step 0, the same however it is split or interrupted, loadable
afterwards.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from tests.tuning.image_models import save_picture, save_pipeline
from tests.tuning.image_runs import cancelled_after, make_run, metrics, pair_rows, read_rows, run
from training.tuning.errors import EXIT_BAD_INPUT, EXIT_CANCELLED, EXIT_DONE
from training.tuning.images import batches, direct, preparation
from training.tuning.images.families.stable_diffusion import StableDiffusion

LORA = {"r": 4, "alpha": 4, "target_modules": "all-linear"}
QUICK: dict[str, Any] = {
    "max_steps": 4,
    "batch_size": 4,
    "lora": LORA,
    "learning_rate": 1e-3,
    "warmup": 0,
    "log_every": 1,
    "save_every": 2,
    "samples": 0,
    "num_inference_steps": 2,
    "guidance_scale": 1.0,
}
MOVING = ["loss", "rewards/chosen", "rewards/rejected", "rewards/margin", "rewards/accuracy", "errors/chosen"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def trajectory(folder: Path) -> list[list[float]]:
    return [[row[name] for name in MOVING] for row in metrics(folder) if "loss" in row]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = sorted(folder.glob("checkpoint-*"))[-1]
    return load_file(found / "weights.safetensors")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("reference", ["cached", "live"])
@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_step_0_is_exact(base, tmp_path, lora, reference, precision):
    config = QUICK | {"max_steps": 1, "lora": lora, "reference": reference, "precision": precision}
    folder = make_run(tmp_path / "run", "diffusion_dpo", base=base, config=config | {"batch_size": 8})
    assert run(folder) == EXIT_DONE
    first = metrics(folder)[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/margin"] == first["rewards/chosen"] == first["rewards/rejected"] == 0
    assert first["rewards/accuracy"] == 0.5
    assert first["errors/chosen"] == first["errors/reference_chosen"] == -first["logps/chosen"] > 0
    assert first["tokens_per_second"] > first["images_per_second"] > 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_cached_and_live_references_are_one(base, tmp_path, lora, precision):
    """Over two epochs, with flips and dropped captions: the cache holds what the live reference says."""
    config = QUICK | {"lora": lora, "precision": precision, "random_flip": True, "caption_dropout": 0.5}
    for reference in ("cached", "live"):
        folder = tmp_path / reference
        make_run(folder, "diffusion_dpo", base=base, config=config | {"reference": reference})
        assert run(folder) == EXIT_DONE
    assert trajectory(tmp_path / "cached") == trajectory(tmp_path / "live")
    assert trajectory(tmp_path / "cached")[-1][0] != pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize("reference", ["cached", "live"])
def test_draws_come_again_and_their_reference_is_asked_once(base, tmp_path, reference, monkeypatch):
    """Eight pairs, four epochs, two draws: with a learning rate of nothing epochs 1 and 3 are alike, 1 and 2
    are not; a cached reference reads the pairs twice, and the policy four times.
    """
    read = []
    errors = direct.denoising_errors

    def counted(*args: Any, **named: Any) -> torch.Tensor:
        read.append(args)
        return errors(*args, **named)

    monkeypatch.setattr(direct, "denoising_errors", counted)
    monkeypatch.setattr(preparation, "denoising_errors", counted)
    config = QUICK | {"max_steps": 4, "batch_size": 8, "learning_rate": 1e-12, "reference": reference}
    folder = make_run(tmp_path / "run", "diffusion_dpo", base=base, config=config | {"draws": 2})
    assert run(folder) == EXIT_DONE
    first, second, third, fourth = (row["errors/chosen"] for row in metrics(folder))
    assert (first, second) == (pytest.approx(third, rel=1e-5), pytest.approx(fourth, rel=1e-5))
    assert first != pytest.approx(second, rel=1e-3)
    assert all(row["loss"] == pytest.approx(math.log(2), abs=1e-6) for row in metrics(folder))
    assert len(read) == 4 + (2 if reference == "cached" else 4)


def test_it_learns_and_repeats(base, tmp_path):
    """Bright pictures are preferred to dark ones; the same seed gives the same numbers."""
    for name in ("one", "other"):
        rows = pair_rows(tmp_path / name / "data" / "media")
        for row in rows:
            for index, candidate in enumerate(row["candidates"]):
                level = 230 if index == row["judgements"][0]["choice"] else 20
                Image.new("RGB", (16, 16), (level,) * 3).save(
                    tmp_path / name / "data" / "media" / candidate["image"]
                )
        config = QUICK | {"max_steps": 24, "batch_size": 8, "beta": 100, "lora": None, "learning_rate": 3e-3}
        make_run(tmp_path / name, "diffusion_dpo", base=base, config=config, rows=rows)
        assert run(tmp_path / name) == EXIT_DONE
    losses = [row[0] for row in trajectory(tmp_path / "one")]
    assert sum(losses[-5:]) / 5 < 0.6 * math.log(2)
    assert trajectory(tmp_path / "one") == trajectory(tmp_path / "other")


def test_a_batch_is_the_sum_of_its_groups(base, tmp_path):
    """Batch 8 at once equals 8 × 1, also where judgements weigh groups differently."""
    media = tmp_path / "whole" / "data" / "media"
    rows = pair_rows(media)
    rows[0]["judgements"] *= 3
    rows[1]["judgements"] += [{"choice": "tie"}]
    for name, size in (("whole", None), ("single", 1), ("three", 3)):
        folder = tmp_path / name
        if name != "whole":
            shutil.copytree(media, folder / "data" / "media")
        config = QUICK | {"batch_size": 8, "micro_batch_size": size, "ties": "half", "max_steps": 3}
        make_run(folder, "diffusion_dpo", base=base, config=config, rows=rows)
        assert run(folder) == EXIT_DONE
    for name in ("single", "three"):
        torch.testing.assert_close(
            torch.tensor(trajectory(tmp_path / name)),
            torch.tensor(trajectory(tmp_path / "whole")),
            atol=2e-4,
            rtol=2e-4,
        )


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_gradient_checkpointing_changes_nothing(base, tmp_path, lora):
    for name, on in (("off", False), ("on", True)):
        config = QUICK | {"lora": lora, "gradient_checkpointing": on, "max_steps": 3}
        folder = make_run(tmp_path / name, "diffusion_dpo", base=base, config=config)
        assert run(folder) == EXIT_DONE
    found = [torch.tensor(trajectory(tmp_path / name)) for name in ("off", "on")]
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)
    assert found[0][-1, 0] != found[0][0, 0]


@pytest.mark.parametrize("reference", ["cached", "live"])
@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_resuming_equals_not_stopping(base, tmp_path, lora, reference):
    """Cancelled after step 3, run again: the same weights, metrics and samples, to the bit."""

    config = QUICK | {
        "max_steps": 6,
        "lora": lora,
        "reference": reference,
        "samples": 1,
        "caption_dropout": 0.3,
    }
    config |= {"eval_every": 2}
    for name in ("through", "stopped"):
        held_out = pair_rows(tmp_path / name / "data" / "media", count=3, first=20)
        rows = pair_rows(tmp_path / name / "data" / "media")
        make_run(tmp_path / name, "diffusion_dpo", base=base, config=config, rows=rows, held_out=held_out)
    assert run(tmp_path / "through") == EXIT_DONE

    stopped = tmp_path / "stopped"
    with cancelled_after(3):
        assert run(stopped) == EXIT_CANCELLED
    assert not (stopped / "result").exists()
    assert json.loads((stopped / "state.json").read_text())["status"] == "cancelled"
    assert run(stopped) == EXIT_DONE
    assert trajectory(stopped) == trajectory(tmp_path / "through")
    for name, value in weights(tmp_path / "through").items():
        assert torch.equal(value, weights(stopped)[name])
    for name in ("before-0.png", "after-0.png"):
        ours, theirs = (tmp_path / run_name / "samples" / name for run_name in ("through", "stopped"))
        assert ours.read_bytes() == theirs.read_bytes()
    held_out = [
        [row for row in metrics(folder) if "eval/loss" in row] for folder in (tmp_path / "through", stopped)
    ]
    assert [row["eval/loss"] for row in held_out[0]] == [row["eval/loss"] for row in held_out[1]]
    assert [row["step"] for row in held_out[0]] == [2, 4, 6]


def test_result_of_lora_loads_in_diffusers_and_draws_the_sample(base, tmp_path):
    """The picture drawn after training is the one that a stranger draws with diffusers alone."""
    folder = make_run(
        tmp_path / "run", "diffusion_dpo", base=base, config=QUICK | {"samples": 2, "learning_rate": 0.01}
    )
    assert run(folder) == EXIT_DONE
    samples = read_rows(folder / "samples.jsonl")
    assert [row["when"] for row in samples] == ["before", "before", "after", "after"]
    assert samples[0]["seed"] == samples[2]["seed"] != samples[1]["seed"]
    before, after = (Image.open(folder / samples[index]["image"]) for index in (0, 2))
    assert before.tobytes() != after.tobytes()

    pipeline = StableDiffusionPipeline.from_pretrained(
        base, safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    assert draw(pipeline, samples[0]).tobytes() == before.tobytes()
    pipeline.load_lora_weights(folder / "result", weight_name="pytorch_lora_weights.safetensors")
    assert draw(pipeline, samples[2]).tobytes() == after.tobytes()

    card = (folder / "result" / "README.md").read_text()
    assert "load_lora_weights" in card
    facts = json.loads((folder / "result" / "metadata.json").read_text())
    assert facts["base"] == str(base)
    assert facts["data"]["judgements"] == 8


def test_result_of_full_fine_tuning_is_a_pipeline(base, tmp_path):
    base = shutil.copytree(base, tmp_path / "base")
    (base / "generation_config.json").write_text('{"num_inference_steps": 2, "guidance_scale": 1.0}')
    config = QUICK | {"lora": None, "samples": 1, "learning_rate": 1e-3}
    folder = make_run(tmp_path / "run", "diffusion_dpo", base=base, config=config)
    assert run(folder) == EXIT_DONE
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "result", use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    after = read_rows(folder / "samples.jsonl")[-1]
    assert draw(pipeline, after).tobytes() == Image.open(folder / after["image"]).tobytes()
    assert (folder / "result" / "generation_config.json").exists()
    assert not [path for path in (folder / "result").rglob("*") if path.suffix in {".bin", ".pt", ".ckpt"}]


def draw(pipeline: StableDiffusionPipeline, sample: dict[str, Any]) -> Image.Image:
    generator = torch.Generator().manual_seed(sample["seed"])
    return pipeline(sample["prompt"], generator=generator, num_inference_steps=2, guidance_scale=1.0).images[
        0
    ]


def test_training_goes_on_from_an_adapter(base, tmp_path):
    """The second run starts at ln 2 against the first one's result, and its result stands on the pipeline."""
    first = make_run(tmp_path / "first", "diffusion_dpo", base=base, config=QUICK)
    assert run(first) == EXIT_DONE
    second = make_run(tmp_path / "second", "diffusion_dpo", base=first / "result", config=QUICK, seed=4)
    assert run(second) == EXIT_DONE
    assert metrics(second)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics(second)[0]["rewards/margin"] == 0
    pipeline = StableDiffusionPipeline.from_pretrained(
        base, safety_checker=None, requires_safety_checker=False
    )
    pipeline.load_lora_weights(second / "result", weight_name="pytorch_lora_weights.safetensors")


def test_everything_is_encoded_once(base, tmp_path, monkeypatch):
    """One picture in two groups is one latent, one prompt one embedding; a second attempt encodes nothing."""
    from training.tuning.run import Run

    pictures, prompts = [], []
    encode_images, encode_prompts = StableDiffusion.encode_images, StableDiffusion.encode_prompts
    monkeypatch.setattr(
        StableDiffusion, "encode_images", lambda self, x: pictures.extend(x) or encode_images(self, x)
    )
    monkeypatch.setattr(
        StableDiffusion, "encode_prompts", lambda self, x: prompts.extend(x) or encode_prompts(self, x)
    )
    monkeypatch.setattr(batches, "ENCODE_PIXELS", 4 * 16 * 16)
    rows = pair_rows(tmp_path / "run" / "data" / "media")
    rows[1]["candidates"][0] = rows[0]["candidates"][0]
    rows[2]["prompt"] = rows[0]["prompt"]
    folder = make_run(tmp_path / "run", "diffusion_dpo", base=base, config=QUICK, rows=rows)
    with monkeypatch.context() as patched:
        patched.setattr(
            Run, "begin", lambda self, *args, **kwargs: self.dir.cancel_file.touch() or self.check_stop()
        )
        assert run(folder) == EXIT_CANCELLED
    assert len(pictures) == 15
    assert len(prompts) == len(set(prompts)) == 7
    (half,) = list((folder / "cache" / "latents").rglob("*.safetensors"))[:1]
    half.rename(half.with_suffix(".part"))  # as after a kill
    assert run(folder) == EXIT_DONE
    assert len(pictures) == 19  # the batch of four with the missing one
    assert len(prompts) == 7
    assert not (folder / "cache").exists()


def test_rows_that_cannot_be_used_are_counted(base, tmp_path):
    media = tmp_path / "run" / "data" / "media"
    rows = pair_rows(media)
    save_picture(media / "wide.png", seed=1, width=32)
    rows[0]["candidates"][0] = {"image": "wide.png"}
    rows[1]["judgements"] = [{"choice": "both_bad"}]
    rows[2]["prompt"] = "far too long a prompt for this text encoder"
    save_picture(media / "odd.png", seed=1, width=17)
    rows[3]["candidates"] = [{"image": "odd.png"}, {"image": "odd.png"}]
    folder = make_run(
        tmp_path / "run", "diffusion_dpo", base=base, config=QUICK | {"max_steps": 1}, rows=rows
    )
    from training.tuning.__main__ import main

    assert main(["inspect", str(folder)]) == EXIT_DONE
    preview = json.loads((folder / "inspect.json").read_text())
    assert preview["dropped"] == {
        "pictures of different sizes; set a resolution": 1,
        "only ties or both-bad": 1,
        "prompt longer than 16 tokens": 1,
        "size is not a multiple of 4 pixels; set a resolution": 1,
    }
    assert preview["groups"] == preview["pairs"] == 4
    assert [row["kept"] for row in preview["rows"]] == [False] * 4 + [True] * 4
    assert run(folder) == EXIT_DONE
    assert "1 rows dropped: only ties or both-bad" in (folder / "log.txt").read_text()


def test_a_resolution_takes_pictures_of_any_size(base, tmp_path):
    media = tmp_path / "run" / "data" / "media"
    rows = pair_rows(media)
    save_picture(media / "wide.png", seed=1, width=40)
    rows[0]["candidates"][0] = {"image": "wide.png"}
    config = QUICK | {"resolution": 16, "random_crop": True, "batch_size": 8, "max_steps": 1}
    folder = make_run(tmp_path / "run", "diffusion_dpo", base=base, config=config, rows=rows)
    assert run(folder) == EXIT_DONE
    assert "dropped" not in (folder / "log.txt").read_text()


def test_no_usable_row_is_bad_input(base, tmp_path, capsys):
    rows = pair_rows(tmp_path / "run" / "data" / "media")
    for row in rows:
        row["judgements"] = [{"choice": "tie"}]
    folder = make_run(tmp_path / "run", "diffusion_dpo", base=base, config=QUICK, rows=rows)
    assert run(folder) == EXIT_BAD_INPUT
    assert "train.jsonl: no row gives a pair to train on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"timestep_low": 0.6, "timestep_high": 0.5}, "timestep_low must be below timestep_high"),
        ({"random_crop": True}, "random_crop needs a resolution"),
        ({"beta": 0}, "config.beta"),
        ({"temperature": 1}, "config.temperature: unknown key"),
    ],
)
def test_bad_config(base, tmp_path, capsys, config, message):
    folder = make_run(tmp_path / "run", "diffusion_dpo", base=base, config=config)
    assert run(folder) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err


def test_damaged_pictures_are_bad_input(base, tmp_path, capsys):
    rows = pair_rows(tmp_path / "run" / "data" / "media")
    folder = make_run(tmp_path / "run", "diffusion_dpo", base=base, config=QUICK, rows=rows)
    picture = folder / "data" / "media" / "3-1.png"
    picture.write_bytes(picture.read_bytes()[:200])
    assert run(folder) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert "train.jsonl, line 4, candidates.1.image" in error
    assert '"3-1.png" cannot be read' in error


def test_huge_pictures_are_refused_before_decoding(base, tmp_path, capsys):
    rows = pair_rows(tmp_path / "run" / "data" / "media")
    folder = make_run(tmp_path / "run", "diffusion_dpo", base=base, config=QUICK, rows=rows)
    Image.new("1", (20_000, 10_000)).save(folder / "data" / "media" / "0-0.png")
    assert run(folder) == EXIT_BAD_INPUT
    assert "train.jsonl, line 1, candidates.0.image" in capsys.readouterr().err
