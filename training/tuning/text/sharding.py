"""Weights divided among processes: FSDP (arXiv:2304.11277), by torch's ``fully_shard``.

Each process keeps a part of every layer's weights and gathers the whole layer for as long as it computes. Of
a model with an adapter the frozen base is divided; what is trained is small, and each process has all of it.
"""

import logging
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from training.tuning import processes
from training.tuning.errors import BadInput
from training.tuning.weights import DIVIDED, divide

logger = logging.getLogger("training.tuning")


class Whole(nn.Module):
    """Everything that reads a model's weights happens inside of its forward pass: FSDP's hooks hang there."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        """What ``work`` gives."""
        return work()

    def divide(self) -> None:
        """Back into parts, those too that the last reading left whole."""
        divide(self.model)


def shard(model: Any, inner: Any) -> Whole:
    """Divide the weights of ``model`` (a transformers model ``inner``, or a PeftModel around it)."""
    layers = getattr(inner.base_model, "layers", None) or getattr(inner.base_model, "h", None)
    if not layers:
        raise BadInput(f"{type(inner).__name__} has no list of layers to divide", field="config.sharded")
    has_adapter = hasattr(model, "peft_config")
    whole_ones = {value for value in model.parameters() if has_adapter and value.requires_grad}
    device = next(model.parameters()).device.type
    options: dict[str, Any] = {
        "mesh": init_device_mesh(device, (processes.count(),)),
        "ignored_params": whole_ones,
    }
    for layer in layers:
        fully_shard(layer, **options)
    whole = Whole(model)
    fully_shard(whole, **options)
    for module in sharded_modules(whole):
        # Gradients are added up, as everywhere here; the mean is in the loss.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    object.__setattr__(model, DIVIDED, whole)  # not as a part of it
    parts: list[Any] = [value for value in model.parameters() if processes.is_sharded(value)]
    held, shared = sum(part.to_local().numel() for part in parts), sum(part.numel() for part in parts)
    logger.info("%s weights are divided; each process holds %s", f"{shared:,}", f"{held:,}")
    return whole


def sharded_modules(whole: Whole) -> list[FSDPModule]:
    """The modules whose weights are gathered one after another."""
    return [module for module in whole.modules() if isinstance(module, FSDPModule)]
