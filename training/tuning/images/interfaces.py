"""LoRA weights of a U-Net in the key layout of common interfaces (kohya's scripts, ComfyUI, A1111).

``lora_unet_down_blocks_0_attentions_0_…_to_q.lora_down.weight``, ``….lora_up.weight``, ``….alpha``: an
interface reads the rank off the weights and scales a layer by alpha / rank.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya, convert_unet_state_dict_to_peft
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.tuning.errors import BadInput

INTERFACE_FILE = "lora_for_interfaces.safetensors"
DOWN = ".lora_down.weight"
# SDXL's sizes: interfaces know these two layers by their names in the original model.
RENAMED = {"add_embedding_linear_1": "label_emb_0_0", "add_embedding_linear_2": "label_emb_0_2"}


def interface_layers(layers: Mapping[str, Tensor], *, alpha: float) -> dict[str, Tensor]:
    """A U-Net's LoRA layers (peft's names, ``….lora_A.weight``) under the names of interfaces, with the alpha
    that they were trained with.
    """
    found: dict[str, Tensor] = {}
    for name, value in convert_state_dict_to_kohya({f"unet.{at}": one for at, one in layers.items()}).items():
        layer, _, kind = name.partition(".")
        layer = layer.removeprefix("lora_unet_")
        # diffusers puts the rank for every alpha, which is right only where the two are equal.
        kept = torch.tensor(alpha) if kind == "alpha" else value.contiguous()
        found[f"lora_unet_{RENAMED.get(layer, layer)}.{kind}"] = kept
    return found


def write_interface_file(
    folder: Path, written: dict[str, Tensor], *, lost: Callable[[dict[str, Tensor]], list[str]]
) -> None:
    """Write ``lora_for_interfaces.safetensors``; ``lost`` says which layers diffusers would not read of it.

    Raises BadInput, and leaves no file, if there are such.
    """
    file = folder / INTERFACE_FILE
    save_file(written, file, metadata={"format": "pt"})
    if missing := lost(load_file(file)):
        file.unlink()
        raise BadInput(
            f"no file for interfaces: their layout has no name for {len(missing)} of the adapter's layers, "
            f"such as {missing[0]}",
            file=folder,
            field="config.lora.target_modules",
        )


def lost_layers(
    layers: Mapping[str, Tensor], written: dict[str, Tensor], read: Callable[[dict[str, Tensor]], Any]
) -> list[str]:
    """The layers that do not come back under their own names with their own values."""
    try:
        again = {name.removeprefix("unet."): value for name, value in read(written)[0].items()}
    except (KeyError, ValueError):
        return sorted(layers)
    found = convert_unet_state_dict_to_peft(again)
    return [
        name for name, value in layers.items() if name not in found or not torch.equal(found[name], value)
    ]
