"""LoRA weights of FLUX in the key layout of common interfaces: by the names of the original model.

There queries, keys, values (and, in single blocks, the first layer of the MLP) are one layer. Adapters of its
parts are one of it: their A stand below one another, their B on a diagonal, and the rank is their sum. As
kohya's ``convert_flux_lora.py`` writes it, and diffusers reads it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

A, B = ".lora_A.weight", ".lora_B.weight"
DOUBLE = {
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp_0": ("ff.net.0.proj",),
    "img_mlp_2": ("ff.net.2",),
    "img_mod_lin": ("norm1.linear",),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mlp_0": ("ff_context.net.0.proj",),
    "txt_mlp_2": ("ff_context.net.2",),
    "txt_mod_lin": ("norm1_context.linear",),
}
SINGLE = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation_lin": ("norm.linear",),
}
BLOCKS = {
    "transformer_blocks": ("double_blocks", DOUBLE),
    "single_transformer_blocks": ("single_blocks", SINGLE),
}


def flux_layers(layers: Mapping[str, Tensor], *, alpha: float, sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Layers under peft's names (``….lora_A.weight``) under those of interfaces; others are left out.

    ``sizes``: how many numbers each layer of the transformer gives, for parts without an adapter.
    """
    found: dict[str, Tensor] = {}
    numbers = {tuple(name.split(".")[:2]) for name in layers if name.split(".")[0] in BLOCKS}
    for kind, number in sorted(numbers):
        original, names = BLOCKS[kind]
        for name, parts in names.items():
            own = [f"{kind}.{number}.{part}" for part in parts]
            if not any(one + A in layers for one in own):
                continue
            some = next(layers[one + A] for one in own if one + A in layers)
            down = [layers.get(one + A, torch.zeros_like(some)) for one in own]
            up = [
                layers[one + B] if one + B in layers else some.new_zeros(sizes[one], some.shape[0])
                for one in own
            ]
            key = f"lora_unet_{original}_{number}_{name}"
            found[f"{key}.lora_down.weight"] = torch.cat(down)
            found[f"{key}.lora_up.weight"] = torch.block_diag(*up)
            found[f"{key}.alpha"] = torch.tensor(alpha * len(own))
    return found


def lost_flux_layers(
    layers: Mapping[str, Tensor],
    written: dict[str, Tensor],
    read: Callable[[dict[str, Tensor]], Any],
    *,
    alpha: float,
) -> list[str]:
    """The layers that do not move what they moved, as diffusers reads the file: tried on one random input."""
    try:
        again = {name.removeprefix("transformer."): value.double() for name, value in read(written).items()}
    except (AssertionError, KeyError, ValueError, RuntimeError):
        return sorted(layers)
    lost = []
    for name in sorted(name.removesuffix(A) for name in layers if name.endswith(A)):
        if name + A not in again or name + B not in again:
            lost.append(name)
            continue
        down, up = layers[name + A].double(), layers[name + B].double()
        probe = torch.randn(down.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        ours = alpha / down.shape[0] * (up @ (down @ probe))
        theirs = again[name + B] @ (again[name + A] @ probe)
        if not torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7 * float(ours.abs().max())):
            lost.append(name)
    return lost
