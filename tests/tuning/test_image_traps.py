"""What a pair has to share, and what must not move the policy: each test fails when the mistake is put in."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tuning.image_models import save_picture, save_pipeline
from tests.tuning.image_runs import make_run, metrics, pair_rows, run
from tests.tuning.test_image_direct import LORA, QUICK, values
from training.tuning.config import DiffusionDPOConfig
from training.tuning.data import Candidate, Group, Judgement
from training.tuning.errors import EXIT_DONE
from training.tuning.images.batches import DrawSettings, PreparedGroups
from training.tuning.images.data import Frame, open_image, to_pixels
from training.tuning.images.errors import NoisyGroups, denoising_errors
from training.tuning.images.families import Family, load_family
from training.tuning.images.groups import Framing, Limits, preferred, select_groups
from training.tuning.losses.diffusion_dpo import diffusion_dpo_loss

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def twins(family: Family, folder: Path) -> NoisyGroups:
    """A group whose two pictures are one and the same, cut at random from a wide one."""
    save_picture(folder / "one.png", seed=1, width=64)
    row = Group(
        prompt="a b",
        candidates=[Candidate(image="one.png"), Candidate(image="one.png")],
        judgements=[Judgement(choice=0)],
        line=1,
    )
    groups, _ = select_groups(
        [row],
        part="train",
        media=folder,
        choose=preferred(DiffusionDPOConfig()),
        limits=Limits(None, len),
        framing=Framing(16, random_crop=True, multiple=4, seed=0),
    )
    draws = DrawSettings(seed=3, timesteps=range(1000), flip=True, caption_dropout=0.5)
    prepared = PreparedGroups(groups, family, draws=draws, folder=folder / "cache", on_batch=lambda: None)
    return prepared.batch([0], epoch=0)


def apart(batch: NoisyGroups, broken: str, family: Family, folder: Path) -> NoisyGroups:
    """The same with each picture as a group of its own, and one thing of the second another."""
    each = replace(
        batch,
        owner=torch.arange(2),
        noise=batch.noise.repeat(2, 1, 1, 1),
        timesteps=batch.timesteps.repeat(2),
        conditioning={name: value.repeat(2, 1, 1) for name, value in batch.conditioning.items()},
    )
    if broken == "noise":
        each.noise[1] = torch.randn(each.noise[1].shape, generator=torch.Generator().manual_seed(0))
    elif broken == "timestep":
        each.timesteps[1] = (each.timesteps[1] + 300) % 1000
    elif broken == "caption":
        each.conditioning["embeddings"][1] = family.encode_prompts(["c d e"])["embeddings"][0]
    elif broken == "flip":
        each.latents[1] = each.latents[1].flip(-1)
    elif broken == "crop":
        other = to_pixels(Frame(16, 16, across=0.9).apply(open_image(folder / "one.png")))
        each.latents[1] = family.encode_images(other[None])[0]
    return each


@pytest.mark.parametrize("broken", ["nothing", "noise", "timestep", "caption", "flip", "crop"])
def test_a_pair_of_one_picture_has_the_loss_ln_2_unless_something_is_not_shared(base, tmp_path, broken):
    """Whatever policy and reference are: equal pictures have equal errors, and the margin is exactly 0."""
    family, reference = (load_family(str(base), device=CPU) for _ in range(2))
    generator = torch.Generator().manual_seed(5)
    for weight in family.denoiser.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    batch = apart(twins(family, tmp_path), broken, family, tmp_path)
    with torch.no_grad():
        policy = denoising_errors(family, family.denoiser, batch)
        start = denoising_errors(family, reference.denoiser, batch)
    loss = diffusion_dpo_loss(policy[:1], policy[1:], start[:1], start[1:], beta=2000.0).item()
    if broken == "nothing":
        assert loss == pytest.approx(math.log(2), abs=1e-7)
    else:
        assert abs(loss - math.log(2)) > 0.01


def test_training_reads_without_guidance(base, tmp_path):
    """How samples are drawn, with guidance or without, is no part of the loss."""
    for scale in (1.0, 7.5):
        config = QUICK | {"guidance_scale": scale, "max_steps": 2}
        folder = make_run(tmp_path / str(scale), "diffusion_dpo", base=base, config=config)
        assert run(folder) == EXIT_DONE
    assert values(tmp_path / "1.0", "loss", "grad_norm") == values(tmp_path / "7.5", "loss", "grad_norm")


def test_samples_and_evaluations_leave_the_adapter_as_it_is(base, tmp_path):
    """In bf16: neither drawing nor measuring on the way casts weights, moves them or takes random numbers."""
    found = []
    for name, keys in (("plain", {}), ("watched", {"samples": 1, "eval_every": 1})):
        config = QUICK | {"lora": LORA, "precision": "bf16", "max_steps": 3} | keys
        rows = pair_rows(tmp_path / name / "data" / "media")
        folder = make_run(
            tmp_path / name, "diffusion_dpo", base=base, config=config, rows=rows, held_out=rows[:2]
        )
        assert run(folder) == EXIT_DONE
        found.append(values(folder, "loss", "grad_norm"))
        assert len([row for row in metrics(folder) if "eval/loss" in row]) == (3 if keys else 1)
    assert found[0] == found[1]
