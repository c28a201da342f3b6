"""What a checkpoint holds of a model and of random numbers."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from training.tuning.errors import BadInput


def trained_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint holds: parameters that require a gradient, each once even if tied."""
    return {name: value.data for name, value in model.named_parameters() if value.requires_grad}


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the trained tensors."""
    save_file({name: value.contiguous().cpu() for name, value in trained_tensors(model).items()}, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Read the trained tensors into ``model``."""
    saved, wanted = load_file(path), trained_tensors(model)
    if saved.keys() != wanted.keys():
        raise BadInput("the checkpoint holds other weights than this run trains", file=path)
    for name, value in wanted.items():
        value.copy_(saved[name])


def random_states() -> dict[str, Any]:
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
