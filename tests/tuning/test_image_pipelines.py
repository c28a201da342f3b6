"""Families of image pipelines: targets, what is refused, adapters, and what is drawn."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tuning.image_models import save_pipeline
from training.tuning.config import LoraConfig
from training.tuning.errors import BadInput
from training.tuning.images.bases import LORA_FILE, ImageBase, generation_config, resolve_base
from training.tuning.images.errors import NoisyGroups, denoising_errors
from training.tuning.images.families import Family, load_family
from training.tuning.images.generation import Request, Sampling, generate_images, plan_requests
from training.tuning.images.loading import load_for_sampling, load_for_training
from training.tuning.images.policies import ImagePolicy

CPU = torch.device("cpu")
LORA = LoraConfig(r=4, alpha=8)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def broken(pipeline: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(pipeline, tmp_path / "broken")


def batch(family: Family) -> NoisyGroups:
    generator = torch.Generator().manual_seed(0)
    latents = family.encode_images(torch.rand(4, 3, 16, 16, generator=generator) * 2 - 1)
    return NoisyGroups(
        latents=latents,
        owner=torch.tensor([0, 0, 1, 1]),
        noise=torch.randn(2, *latents.shape[1:], generator=generator),
        timesteps=torch.tensor([3, 700]),
        conditioning=family.encode_prompts(["a b", "c"]),
    )


@pytest.mark.parametrize("tiny_vae", [False, True])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_targets(prediction_type, tiny_vae, tmp_path):
    """Whatever is predicted, it and x_t together give back the noise and the picture."""
    family = load_family(
        str(save_pipeline(tmp_path, prediction_type=prediction_type, tiny_vae=tiny_vae)), device=CPU
    )
    clean = family.encode_images(torch.rand(1, 3, 16, 16) * 2 - 1)
    noise, timesteps = torch.randn_like(clean), torch.tensor([400])
    square = family.noise.schedule.alphas_cumprod[400]
    alpha, sigma = square.sqrt(), (1 - square).sqrt()
    noisy, target = family.add_noise(clean, noise, timesteps), family.target(clean, noise, timesteps)
    recovered = {
        "epsilon": (noisy - sigma * target) / alpha,
        "v_prediction": alpha * noisy - sigma * target,
        "sample": target,
    }
    torch.testing.assert_close(recovered[prediction_type], clean, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("rescale", [False, True])
def test_training_uses_the_samplers_noise(beta_schedule, rescale, tmp_path):
    folder = save_pipeline(
        tmp_path,
        prediction_type="v_prediction",
        beta_schedule=beta_schedule,
        rescale_betas_zero_snr=rescale,
        timestep_spacing="trailing",
    )
    family = load_family(str(folder), device=CPU)
    assert torch.equal(family.noise.schedule.alphas_cumprod, family.pipeline.scheduler.alphas_cumprod)
    assert (family.noise.schedule.alphas_cumprod[-1] == 0) == rescale


def test_latents_are_in_the_scale_that_the_pipeline_decodes(pipeline):
    family = load_family(str(pipeline), device=CPU)
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    vae = family.pipeline.vae
    unscaled = family.encode_images(pixels) / vae.config.scaling_factor
    with torch.no_grad():
        torch.testing.assert_close(unscaled, vae.encode(pixels).latent_dist.mean)


def test_errors_belong_to_their_group(pipeline):
    """Candidates of one group see its noise, timestep and prompt: one at a time gives the same errors."""
    family = load_family(str(pipeline), device=CPU)
    together = batch(family)
    with torch.no_grad():
        errors = denoising_errors(family, family.denoiser, together)
        for index in range(4):
            group = index // 2
            alone = NoisyGroups(
                latents=together.latents[index : index + 1],
                owner=torch.tensor([0]),
                noise=together.noise[group : group + 1],
                timesteps=together.timesteps[group : group + 1],
                conditioning={
                    name: value[group : group + 1] for name, value in together.conditioning.items()
                },
            )
            error = denoising_errors(family, family.denoiser, alone)
            torch.testing.assert_close(error, errors[index : index + 1], atol=1e-6, rtol=1e-5)
    assert errors.dtype == torch.float32


def test_errors_are_float32_under_bfloat16(pipeline):
    family = load_family(str(pipeline), device=CPU)
    with torch.no_grad():
        exact = denoising_errors(family, family.denoiser, batch(family))
        rounded = denoising_errors(family, family.denoiser, batch(family), autocast=torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.05


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_another_pipeline_is_refused(broken):
    rewrite(broken / "model_index.json", _class_name="KolorsPipeline")
    with pytest.raises(
        BadInput, match=r"KolorsPipeline is not supported; supported: StableDiffusionPipeline"
    ):
        load_family(str(broken), device=CPU)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no model_index.json"):
        load_family(str(tmp_path), device=CPU)


def test_pickled_weights_are_refused(broken):
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(BadInput, match=r"diffusion_pytorch_model.bin: weights are a pickle"):
        load_family(str(broken), device=CPU)


def test_missing_weights_are_named(broken):
    (broken / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"vae: vae has no weights"):
        load_family(str(broken), device=CPU)


def test_missing_tokenizer_is_refused(broken):
    shutil.rmtree(broken / "tokenizer")
    with pytest.raises(BadInput, match="has no tokenizer"):
        load_family(str(broken), device=CPU)


def test_unknown_prediction_is_refused(broken):
    rewrite(broken / "scheduler" / "scheduler_config.json", prediction_type="flow_prediction")
    with pytest.raises(
        BadInput, match=r"prediction_type: 'flow_prediction' is none of epsilon, v_prediction, sample"
    ):
        load_family(str(broken), device=CPU)


def test_a_schedule_of_neither_kind_is_refused(broken):
    rewrite(broken / "model_index.json", scheduler=["diffusers", "KarrasVeScheduler"])
    (broken / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(BadInput, match="KarrasVeScheduler has neither a schedule of betas nor one of flow"):
        load_family(str(broken), device=CPU)


def test_a_unet_with_other_inputs_is_refused(tmp_path):
    folder = save_pipeline(tmp_path, in_channels=9)
    with pytest.raises(BadInput, match=r"unet: takes 9 channels, the latents have 4"):
        load_family(str(folder), device=CPU)


def test_fresh_adapter_changes_nothing(pipeline):
    policy = load_for_training(str(pipeline), lora=LORA, keep_copy=False, seed=0, device=CPU)
    inputs = batch(policy.family)
    before = denoising_errors(policy.family, policy.denoiser, inputs)
    with torch.no_grad(), policy.as_reference() as denoiser:
        assert torch.equal(denoising_errors(policy.family, denoiser, inputs), before)
    shift(policy.denoiser)
    assert not torch.equal(denoising_errors(policy.family, policy.denoiser, inputs), before)
    with torch.no_grad(), policy.as_reference() as denoiser:
        assert torch.equal(denoising_errors(policy.family, denoiser, inputs), before)


def test_the_adapter_is_back_after_an_exception(pipeline):
    policy = load_for_training(str(pipeline), lora=LORA, keep_copy=False, seed=0, device=CPU)
    shift(policy.denoiser)
    inputs = batch(policy.family)
    before = denoising_errors(policy.family, policy.denoiser, inputs)
    with pytest.raises(KeyError):
        fail_in_reference(policy)
    assert torch.equal(denoising_errors(policy.family, policy.denoiser, inputs), before)
    assert any(weight.requires_grad for weight in policy.denoiser.parameters())


def fail_in_reference(policy: ImagePolicy) -> None:
    with policy.as_reference():
        raise KeyError


def shift(unet: torch.nn.Module) -> None:
    """Move everything that is trained."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in unet.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))


def test_unknown_target_modules_are_refused(pipeline):
    with pytest.raises(BadInput, match="target_modules"):
        load_for_training(
            str(pipeline), lora=LoraConfig(target_modules=["nope"]), keep_copy=False, seed=0, device=CPU
        )


@pytest.fixture
def adapter(pipeline: Path, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A saved adapter whose alpha is not its rank, and the errors with it."""
    policy = load_for_training(str(pipeline), lora=LORA, keep_copy=False, seed=0, device=CPU)
    shift(policy.denoiser)
    policy.save(tmp_path / "adapter")
    (tmp_path / "adapter" / "metadata.json").write_text(json.dumps({"base": str(pipeline)}))
    with torch.no_grad():
        return tmp_path / "adapter", denoising_errors(policy.family, policy.denoiser, batch(policy.family))


def test_saved_adapter_loads_with_diffusers_alone(pipeline, adapter):
    folder, errors = adapter
    family = load_family(str(pipeline), device=CPU)
    family.pipeline.load_lora_weights(folder, weight_name=LORA_FILE, local_files_only=True)
    with torch.no_grad():
        assert torch.equal(denoising_errors(family, family.denoiser, batch(family)), errors)


def test_an_adapter_is_trained_on_from_where_it_is(adapter):
    """It is its own reference, and what is saved replaces it: the pipeline below stays the base."""
    folder, errors = adapter
    policy = load_for_training(str(folder), lora=LORA, keep_copy=False, seed=0, device=CPU)
    inputs = batch(policy.family)
    with torch.no_grad():
        assert torch.equal(denoising_errors(policy.family, policy.denoiser, inputs), errors)
        shift(policy.denoiser)
        moved = denoising_errors(policy.family, policy.denoiser, inputs)
        assert not torch.equal(moved, errors)
        with policy.as_reference() as denoiser:
            assert torch.equal(denoising_errors(policy.family, denoiser, inputs), errors)
        assert torch.equal(denoising_errors(policy.family, policy.denoiser, inputs), moved)
        again = folder.with_name("again")
        policy.save(again)
        (again / "metadata.json").write_text(json.dumps({"base": str(folder)}))
        family = load_for_sampling(str(again), device=CPU)
        assert torch.equal(denoising_errors(family, family.denoiser, inputs), moved)


def test_full_fine_tuning_of_an_adapter_is_refused(adapter):
    with pytest.raises(BadInput, match="cannot start from an adapter"):
        load_for_training(str(adapter[0]), lora=None, keep_copy=False, seed=0, device=CPU)


def test_a_rank_that_the_adapter_does_not_have_is_refused(adapter):
    with pytest.raises(BadInput, match=r"the adapter has r = 4 and alpha = 8"):
        load_for_training(str(adapter[0]), lora=LoraConfig(r=2, alpha=8), keep_copy=False, seed=0, device=CPU)


def test_an_adapter_without_its_base_is_refused(tmp_path):
    save_file({"lora": torch.zeros(1)}, tmp_path / LORA_FILE)
    with pytest.raises(BadInput, match=r"no metadata.json that names its base"):
        resolve_base(str(tmp_path))


def test_base_is_looked_up(adapter, pipeline):
    assert resolve_base(str(pipeline)) == ImageBase(str(pipeline))
    assert resolve_base("some/model") == ImageBase("some/model")
    assert resolve_base(str(adapter[0])) == ImageBase(str(pipeline), adapter[0] / LORA_FILE)
    with pytest.raises(BadInput, match="an image model is needed"):
        resolve_base(None)


def test_generation_config(tmp_path):
    assert generation_config("some/model") == {}
    path = tmp_path / "generation_config.json"
    path.write_text('{"num_inference_steps": 12, "guidance_scale": 1.0}')
    assert generation_config(str(tmp_path)) == {
        "num_inference_steps": 12,
        "guidance_scale": 1.0,
    }
    path.write_text('{"steps": 12}')
    with pytest.raises(BadInput, match="steps: unknown key"):
        generation_config(str(tmp_path))


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_pictures_do_not_depend_on_their_batch(pipeline, guidance_scale):
    family = load_family(str(pipeline), device=CPU)
    sampling = Sampling(num_inference_steps=3, guidance_scale=guidance_scale)
    requests = [Request("a b", 1), Request("c", 2), Request("a b", 3)]
    together = [np.asarray(image, dtype=int) for image in generate_images(family, requests, sampling)]
    alone = [np.asarray(generate_images(family, [one], sampling)[0], dtype=int) for one in requests]
    assert max(np.abs(a - b).max() for a, b in zip(together, alone, strict=True)) <= 1
    assert np.abs(together[0] - together[2]).max() > 1


def test_a_prompts_seeds_do_not_depend_on_the_other_prompts():
    few = plan_requests(["a", "b"], samples_per_prompt=2, seed=5)
    many = plan_requests(["x", "b", "a", "a"], samples_per_prompt=3, seed=5)
    assert many[2][:2] == few[0]
    assert many[1][:2] == few[1]
    seeds = [request.seed for row in many for request in row]
    assert len(set(seeds)) == len(seeds)
    assert plan_requests(["a"], samples_per_prompt=1, seed=6) != [few[0][:1]]
