"""What a checkpoint holds of a model and of random numbers."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from training.tuning.errors import BadInput
from training.tuning.processes import part_of, whole_tensor

DIVIDED = "_divided_by"  # of a model: what its weights were divided through


def trained_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint holds: parameters that require a gradient, each once even if tied."""
    return {name: value.data for name, value in model.named_parameters() if value.requires_grad}


def whole_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """The trained tensors on the CPU; every process calls this, and those who share weights gather them."""
    divide(model)
    return {name: whole_tensor(value).contiguous().cpu() for name, value in trained_tensors(model).items()}


def whole_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state with whole tensors; every process calls this."""
    state = optimizer.state_dict()
    kept = {
        index: {
            name: whole_tensor(value) if isinstance(value, torch.Tensor) else value
            for name, value in values.items()
        }
        for index, values in state["state"].items()
    }
    return {**state, "state": kept}


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give the optimizer a state with whole tensors."""
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    for index, values in state["state"].items():
        like = parameters[index]
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == like.shape:
                values[name] = part_of(value, like)
    optimizer.load_state_dict(state)


def load_weights(model: nn.Module, path: Path) -> None:
    """Read the trained tensors into ``model``."""
    divide(model)
    saved, wanted = load_file(path), trained_tensors(model)
    if saved.keys() != wanted.keys():
        raise BadInput("the checkpoint holds other weights than this run trains", file=path)
    for name, value in wanted.items():
        value.copy_(part_of(saved[name], value))


def divide(model: nn.Module) -> None:
    """Divided weights (``text/sharding.py``) are parts again where the last reading left them whole."""
    for module in getattr(model, DIVIDED, model).modules():
        reshard = getattr(module, "reshard", None)
        if reshard is not None:
            reshard()


def random_states() -> dict[str, Any]:
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
