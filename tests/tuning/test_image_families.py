"""All families: read as their pipelines read, exact at step 0, adapters for diffusers alone."""

import inspect
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tuning.image_models import (
    save_flux,
    save_lcm,
    save_picture,
    save_pipeline,
    save_pixart,
    save_sana,
    save_sd3,
    save_sdxl,
    save_turbo,
)
from tests.tuning.image_runs import make_run
from training.tuning.__main__ import main as train
from training.tuning.config import LoraConfig
from training.tuning.errors import BadInput
from training.tuning.images.bases import LORA_FILE
from training.tuning.images.errors import NoisyGroups, denoising_errors
from training.tuning.images.families import Family, load_family
from training.tuning.images.families.noise import FlowNoise
from training.tuning.images.generation import Request, Sampling, generate_images
from training.tuning.images.loading import load_for_training
from training.tuning.images.policies import load_adapter

CPU = torch.device("cpu")
SAVE = {
    "sd": save_pipeline,
    "turbo": save_turbo,
    "sdxl": save_sdxl,
    "sd3": save_sd3,
    "flux": save_flux,
    "pixart-sigma": save_pixart,
    "pixart-alpha": partial(save_pixart, alpha=True),
    "sana": save_sana,
    "lcm": save_lcm,
}
PAIRS = [{"choice": 0}]


@pytest.fixture(scope="module", params=SAVE)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, SAVE[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def family(saved: tuple[str, Path]) -> Family:
    return load_family(str(saved[1]), device=CPU)


def side_of(family: Family) -> int:
    """Of the smallest picture of 16 pixels and more."""
    return max(16, family.pixel_multiple)


def batch(family: Family) -> NoisyGroups:
    generator, side = torch.Generator().manual_seed(0), side_of(family)
    latents = family.encode_images(torch.rand(4, 3, side, side, generator=generator) * 2 - 1)
    return NoisyGroups(
        latents=latents,
        owner=torch.tensor([0, 0, 1, 1]),
        noise=torch.randn(2, *latents.shape[1:], generator=generator),
        timesteps=torch.tensor([3, 700]),
        conditioning=family.encode_prompts(["a b", "c"]),
    )


def test_the_denoiser_gets_what_the_pipeline_gives_it(saved, family, monkeypatch):
    """A step of the pipeline's own sampler, recorded: our call with its latents and time is the same."""
    recorded: list[tuple[tuple[object, ...], dict[str, object], torch.Tensor]] = []
    forward = family.denoiser.forward
    names = list(inspect.signature(type(family.denoiser).forward).parameters)[1:]

    def record(*args, **kwargs):
        output = forward(*args, **kwargs)
        recorded.append((dict(zip(names, args, strict=False)) | kwargs, output[0]))
        return output

    monkeypatch.setattr(family.denoiser, "forward", record)
    guidance = family.sampling_defaults["guidance_scale"] if family.reads_guidance else 1.0
    generate_images(family, [Request("a b", 5)], Sampling(2, guidance, side_of(family), side_of(family)))
    (theirs, output) = recorded[0]
    packed = theirs.get("sample", theirs.get("hidden_states"))
    time = theirs["timestep"].reshape(-1)[0] * (1000 if saved[0] == "flux" else 1)
    times = family.noise.read(torch.arange(family.train_timesteps)).float()
    at = (times - time).abs().argmin()
    assert (times[at] - time).abs() < (1 if saved[0] == "sana" else 1e-2)  # whose solver rounds them down
    latents = packed
    if saved[0] == "flux":
        latents = family.pipeline._unpack_latents(packed, 16, 16, family.pipeline.vae_scale_factor)
        output = family.pipeline._unpack_latents(output, 16, 16, family.pipeline.vae_scale_factor)
    with torch.no_grad():
        ours = family.predict(family.denoiser, latents, time[None].float(), family.encode_prompts(["a b"]))
    torch.testing.assert_close(ours, output[:, : ours.shape[1]], atol=1e-5, rtol=1e-4)  # no variance
    mine = recorded[-1][0]
    told = theirs | theirs.get("added_cond_kwargs", {}) if theirs.get("added_cond_kwargs") else theirs
    mine |= mine.get("added_cond_kwargs") or {}
    for name, value in told.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(
                mine[name].float().reshape(-1), value.float().reshape(-1), atol=1e-4, rtol=1e-4
            )


def test_what_is_predicted_and_the_noisy_give_back_the_picture(saved, family):
    clean = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    noise, timesteps = torch.randn_like(clean), torch.tensor([30, 800])
    noisy, target = family.add_noise(clean, noise, timesteps), family.target(clean, noise, timesteps)
    if isinstance(family.noise, FlowNoise):
        sigma = family.noise.sigmas[timesteps].view(-1, 1, 1, 1)
        torch.testing.assert_close(noisy - sigma * target, clean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(noisy + (1 - sigma) * target, noise, atol=1e-5, rtol=1e-4)
    else:
        square = family.noise.schedule.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        torch.testing.assert_close(
            (noisy - (1 - square).sqrt() * target) / square.sqrt(), clean, atol=1e-4, rtol=1e-3
        )


@pytest.mark.parametrize("save", [partial(save_sd3, shift=3.0), save_sana])
def test_the_shift_of_the_flow_is_the_schedulers(save, tmp_path):
    """Shift 3: σ = 3 s / (1 + 2 s) at s = t / 1000, so at s = ½ it is ¾."""
    noise = load_family(str(save(tmp_path)), device=CPU).noise
    assert noise.sigmas[499].item() == pytest.approx(0.75, abs=1e-6)
    assert noise.sigmas[999].item() == 1
    assert noise.read(torch.tensor([499])).item() == pytest.approx(750, abs=1e-3)


def test_a_consistency_model_must_read_its_guidance(tmp_path):
    with pytest.raises(BadInput, match=r"the U-Net takes no guidance \(time_cond_proj_dim\)"):
        load_family(str(save_lcm(tmp_path, guidance=None)), device=CPU)


def test_latents_are_in_the_scale_that_the_pipeline_decodes(saved, family):
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    vae = family.pipeline.vae
    shift = vae.config.get("shift_factor") or 0
    unscaled = family.encode_images(pixels) / vae.config.scaling_factor + shift
    with torch.no_grad():
        encoded = vae.encode(pixels)
    torch.testing.assert_close(unscaled, encoded.latent if saved[0] == "sana" else encoded.latent_dist.mean)
    assert unscaled.shape[1:] == family.latent_shape(32, 32)


def test_latents_are_decoded_as_by_the_pipeline(saved, family):
    """Its picture from its own latents, to the rounding; and pixels have a gradient to the latents."""
    side = side_of(family)
    sampling = {"num_inference_steps": 2, "guidance_scale": 1.0, "height": side, "width": side}
    sampling |= {"prompt": "a b"} | family.sampling_options
    latents, pixels = (
        family.pipeline(**sampling, output_type=kind, generator=torch.Generator().manual_seed(3)).images
        for kind in ("latent", "pt")
    )
    if saved[0] == "flux":
        latents = family.pipeline._unpack_latents(latents, 16, 16, family.pipeline.vae_scale_factor)
    latents.requires_grad_()
    decoded = family.decode_latents(latents)
    torch.testing.assert_close((decoded.detach() + 1) / 2, pixels, atol=1e-5, rtol=1e-4)
    (gradient,) = torch.autograd.grad(decoded.sum(), latents)
    assert gradient.abs().max() > 0


def test_errors_belong_to_their_group(family):
    together = batch(family)
    with torch.no_grad():
        errors = denoising_errors(family, family.denoiser, together)
        for index in range(4):
            group = slice(index // 2, index // 2 + 1)
            alone = NoisyGroups(
                latents=together.latents[index : index + 1],
                owner=torch.tensor([0]),
                noise=together.noise[group],
                timesteps=together.timesteps[group],
                conditioning={name: value[group] for name, value in together.conditioning.items()},
            )
            error = denoising_errors(family, family.denoiser, alone)
            torch.testing.assert_close(error, errors[index : index + 1], atol=1e-5, rtol=1e-4)


def test_a_fresh_adapter_changes_nothing_and_a_moved_one_loads_as_its_card_says(saved, tmp_path, monkeypatch):
    """On the pipeline as diffusers itself loads it: the errors are the same to the bit."""
    lora = LoraConfig(r=4, alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    policy = load_for_training(str(saved[1]), lora=lora, keep_copy=False, seed=0, device=CPU)
    inputs = batch(policy.family)
    with torch.no_grad():
        before = denoising_errors(policy.family, policy.denoiser, inputs)
        with policy.as_reference() as denoiser:
            assert torch.equal(denoising_errors(policy.family, denoiser, inputs), before)
        generator = torch.Generator().manual_seed(1)
        for weight in policy.denoiser.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
        moved = denoising_errors(policy.family, policy.denoiser, inputs)
        assert not torch.allclose(moved, before, rtol=1e-4)
        policy.save(tmp_path / "result")
        monkeypatch.chdir(tmp_path)
        names = {"BASE": str(saved[1])}
        exec(policy.family.how_to_load_adapter, names)
        loaded = getattr(names["pipeline"], policy.family.denoiser_name).eval()
        assert torch.equal(denoising_errors(policy.family, loaded, inputs), moved)
        again = load_family(str(saved[1]), device=CPU)
        load_adapter(again, tmp_path / "result" / LORA_FILE)
        assert torch.equal(denoising_errors(again, again.denoiser, inputs), moved)


def test_pictures_do_not_depend_on_their_batch(saved, family):
    sampling = Sampling(2, 3.0, side_of(family), side_of(family))
    requests = [Request("a b", 1), Request("c", 2)]
    together = [np.asarray(image, dtype=int) for image in generate_images(family, requests, sampling)]
    alone = [np.asarray(generate_images(family, [one], sampling)[0], dtype=int) for one in requests]
    assert max(np.abs(a - b).max() for a, b in zip(together, alone, strict=True)) <= 1


@pytest.mark.parametrize(
    "saved", sorted(SAVE.keys() - {"turbo", "pixart-alpha"}), indirect=True
)  # the same code
@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 4}])
def test_dpo_of_every_family_starts_at_ln_2(saved, family, lora, tmp_path):
    """Diffusion-DPO, and on flows Flow-DPO: -log σ(0) = ln 2 at step 1, less at the end; the result draws."""
    media = tmp_path / "run" / "data" / "media"
    rows = []
    for number in range(2):
        files = [f"{number}-{side}.png" for side in (0, 1)]
        for side, file in enumerate(files):
            pixels = side_of(family)
            save_picture(media / file, seed=2 * number + side, height=pixels, width=pixels)
        rows.append(
            {
                "prompt": "a b c"[: 2 * number + 1],
                "candidates": [{"image": file} for file in files],
                "judgements": PAIRS,
            }
        )
    config = {
        "epochs": 10,
        "batch_size": 2,
        "beta": 200.0,
        "learning_rate": 1e-2,
        "warmup": 0,
        "log_every": 1,
    }
    config |= {
        "lora": lora and lora | {"target_modules": "all-linear"},
        "samples": 1,
        "num_inference_steps": 2,
    }
    folder = make_run(tmp_path / "run", "diffusion_dpo", base=saved[1], config=config, rows=rows)
    assert train([str(folder)]) == 0
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-6)
    assert min(losses) < 0.68
