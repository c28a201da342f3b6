"""Trained LoRA weights for interfaces: diffusers reads them as it reads its own."""

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tuning.image_models import save_flux, save_lcm, save_pipeline, save_sd3, save_sdxl
from tests.tuning.image_runs import make_run, run
from training.tuning.config import LoraConfig
from training.tuning.images.bases import LORA_FILE
from training.tuning.images.flux_interfaces import flux_layers, lost_flux_layers
from training.tuning.images.interfaces import INTERFACE_FILE, interface_layers
from training.tuning.images.loading import load_for_training
from training.tuning.images.policies import ImagePolicy

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def trained(base: Path, *, targets: str | list[str]) -> ImagePolicy:
    """An adapter that moves pictures, at alpha / r = 2."""
    lora = LoraConfig(r=4, alpha=8, target_modules=targets)
    policy = load_for_training(str(base), lora=lora, keep_copy=False, seed=0, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.trained.values():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return policy


def drawn(base: Path, folder: Path | None = None, file: str | None = None) -> np.ndarray:
    """A picture by diffusers alone, with the weights in ``folder`` / ``file``."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(base)
    pipeline.set_progress_bar_config(disable=True)
    if folder:
        pipeline.load_lora_weights(folder, weight_name=file)
    told = {"num_inference_steps": 2, "output_type": "np", "height": 16, "width": 16}
    return pipeline("a b", generator=torch.Generator().manual_seed(3), **told).images[0]


@pytest.mark.parametrize(
    ("save", "targets"),
    [
        (save_pipeline, "all-linear"),
        (save_sdxl, "all-linear"),
        (save_sdxl, ATTENTION),
        (save_lcm, ATTENTION),
    ],
    ids=["sd-all", "sdxl-all", "sdxl-attention", "lcm-attention"],
)
def test_the_file_for_interfaces_draws_the_same_picture(save, targets, tmp_path):
    """All layers of SD, SDXL and consistency models, with alpha twice the rank: equal to the bit."""
    base = save(tmp_path / "base")
    policy = trained(base, targets=targets)
    policy.save(tmp_path / "result")
    assert INTERFACE_FILE in policy.save_for_interfaces(tmp_path / "result")
    own, theirs = (drawn(base, tmp_path / "result", file) for file in (LORA_FILE, INTERFACE_FILE))
    assert np.abs(own - drawn(base)).max() > 0.01
    assert np.array_equal(own, theirs)
    found = load_file(tmp_path / "result" / INTERFACE_FILE)
    assert {name.split("_")[1] for name in found} == {"unet"}
    assert {float(value) for name, value in found.items() if name.endswith(".alpha")} == {8.0}


def test_without_its_alpha_a_layer_counts_half(tmp_path):
    """alpha 8 of rank 4 doubles; the alpha that diffusers' converter writes, the rank, does not."""
    base = save_pipeline(tmp_path / "base")
    policy = trained(base, targets=ATTENTION)
    folders = [tmp_path / "right", tmp_path / "wrong"]
    for folder, alpha in zip(folders, (8.0, 4.0), strict=True):
        folder.mkdir()
        policy.family.save_for_interfaces(folder, policy._layers(), alpha=alpha)
    right, wrong = (drawn(base, folder, INTERFACE_FILE) for folder in folders)
    assert np.abs(right - wrong).max() > 0.01


def test_names_are_those_of_interfaces():
    down, up = torch.ones(4, 6), torch.ones(5, 4)
    layers = {"mid_block.attentions.0.proj_in.lora_A.weight": down}
    layers |= {"mid_block.attentions.0.proj_in.lora_B.weight": up}
    layers |= {"add_embedding.linear_2.lora_A.weight": down, "add_embedding.linear_2.lora_B.weight": up}
    assert sorted(interface_layers(layers, alpha=2.0)) == [
        "lora_unet_label_emb_0_2.alpha",
        "lora_unet_label_emb_0_2.lora_down.weight",
        "lora_unet_label_emb_0_2.lora_up.weight",
        "lora_unet_mid_block_attentions_0_proj_in.alpha",
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight",
    ]


def test_a_layer_that_would_be_lost_is_named(tmp_path):
    """What tells a consistency model its guidance has no name there."""
    policy = trained(save_lcm(tmp_path / "base"), targets="all-linear")
    (tmp_path / "result").mkdir()
    said = policy.save_for_interfaces(tmp_path / "result")
    assert "no name for 2 of the adapter's layers, such as time_embedding.cond_proj" in said
    assert not (tmp_path / "result" / INTERFACE_FILE).exists()


def test_families_without_that_layout_say_so(tmp_path):
    policy = trained(save_sd3(tmp_path / "base"), targets=["to_q"])
    (tmp_path / "result").mkdir()
    said = policy.save_for_interfaces(tmp_path / "result")
    assert said.startswith(
        "No file for interfaces: their layout is known for Stable Diffusion, SDXL and FLUX"
    )
    assert not (tmp_path / "result" / INTERFACE_FILE).exists()


def test_flux_draws_the_same_picture(tmp_path):
    """What double blocks learnt, keys without an adapter among it; one layer there for queries to values."""
    base = save_flux(tmp_path / "base")
    targets = [
        "attn.to_q",
        "attn.to_v",
        "attn.add_k_proj",
        "attn.to_add_out",
        "ff.net.0.proj",
        "norm1.linear",
    ]
    policy = trained(base, targets=[f"transformer_blocks.0.{one}" for one in targets])
    policy.save(tmp_path / "result")
    assert INTERFACE_FILE in policy.save_for_interfaces(tmp_path / "result")
    own, theirs = (drawn(base, tmp_path / "result", file) for file in (LORA_FILE, INTERFACE_FILE))
    assert np.abs(own - drawn(base)).max() > 0.01
    assert np.abs(own - theirs).max() < 1e-4
    found = load_file(tmp_path / "result" / INTERFACE_FILE)
    key = "lora_unet_double_blocks_0_img_attn_qkv"
    assert found[f"{key}.lora_down.weight"].shape == (12, 32)  # three times the rank
    assert float(found[f"{key}.alpha"]) == 24.0  # and three times the alpha
    assert found[f"{key}.lora_up.weight"][:32, 4:].abs().max() == 0


def test_flux_single_blocks_at_their_real_size():
    """What diffusers reads of 3072 numbers has every layer's own product, alpha / rank in it."""
    generator = torch.Generator().manual_seed(0)
    layers = {}
    parts = {"attn.to_q": 3072, "attn.to_v": 3072, "proj_mlp": 12288, "norm.linear": 9216}
    for name, size in parts.items():
        key = f"single_transformer_blocks.3.{name}"
        layers[f"{key}.lora_A.weight"] = torch.randn(2, 3072, generator=generator)
        layers[f"{key}.lora_B.weight"] = torch.randn(size, 2, generator=generator)
    sizes = {f"single_transformer_blocks.3.{name}": size for name, size in parts.items()}
    sizes["single_transformer_blocks.3.attn.to_k"] = 3072
    written = flux_layers(layers, alpha=3.0, sizes=sizes)
    assert sorted(one for one in written if one.endswith("alpha")) == [
        "lora_unet_single_blocks_3_linear1.alpha",
        "lora_unet_single_blocks_3_modulation_lin.alpha",
    ]
    assert written["lora_unet_single_blocks_3_linear1.lora_up.weight"].shape == (3 * 3072 + 12288, 8)
    read = diffusers.FluxPipeline.lora_state_dict
    again = {name: value.clone() for name, value in written.items()}
    assert lost_flux_layers(layers, dict(again), read, alpha=3.0) == []
    # Another alpha, and layers that the layout does not have, are seen.
    assert len(lost_flux_layers(layers, dict(again), read, alpha=2.0)) == 4
    layers |= {f"x_embedder.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
    assert lost_flux_layers(layers, dict(again), read, alpha=3.0) == ["x_embedder"]


def test_a_run_publishes_both_files_and_its_card_says_so(tmp_path):
    base = save_pipeline(tmp_path / "base")
    config = {"max_steps": 1, "samples": 0, "lora": {"r": 2, "alpha": 4, "target_modules": "all-linear"}}
    folder = make_run(tmp_path / "run", "diffusion_dpo", base=base, config=config)
    assert run(folder) == 0
    result = folder / "result"
    assert f"`{INTERFACE_FILE}`" in (result / "README.md").read_text()
    alphas = [value for name, value in load_file(result / INTERFACE_FILE).items() if name.endswith("alpha")]
    assert {float(value) for value in alphas} == {4.0}
    said = json.loads((result / "metadata.json").read_text())
    assert (said["config"]["lora"]["alpha"], said["interface_file"]) == (4.0, INTERFACE_FILE)
    assert np.array_equal(drawn(base, result), drawn(base, result, INTERFACE_FILE))  # diffusers takes its own
