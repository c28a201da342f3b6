"""An adapter in parts, one for each stretch of the noise levels: the timestep-aware LoRA of ShortFT
(arXiv:2507.22604).

The parts are blocks of one adapter's rank, stacked: in stretch i, counted from pure noise, parts 0 to i
count. So the first part is shared by all stretches, and what stretch i says depends on no later part. It is
one file that diffusers loads; there, without these hooks, all parts count everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.tuning.images.families import Family

OTHER = 0  # no part counts


def stretch_of(share: float, *, count: int) -> int:
    """Which of ``count`` equal stretches a noise level is in: ``share`` is 1 at pure noise, 0 at data.

    Of four and timesteps up to 1000: 750 < t, 500 < t ≤ 750, 250 < t ≤ 500 and the rest.
    """
    return min(count - 1, max(0, int((1 - share) * count)))


HOW_TO_DRAW = """
# This adapter is in (PARTS) parts that count one after another, from pure noise to picture.
import torch

denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
counting = 0

def look(module, args, kwargs):
    global counting
    time = float(torch.as_tensor(kwargs["timestep"] if "timestep" in kwargs else args[1]).flatten()[0])
    counting = 1 + min((PARTS) - 1, int((1 - time / (SPAN)) * (PARTS)))

def keep(module, args, output):
    dim = 1 if isinstance(module, torch.nn.Conv2d) else output.ndim - 1
    kept = output.shape[dim] * counting // (PARTS)
    others = torch.zeros_like(output.narrow(dim, kept, output.shape[dim] - kept))
    return torch.cat([output.narrow(dim, 0, kept), others], dim)

denoiser.register_forward_pre_hook(look, with_kwargs=True)
for layer in denoiser.modules():
    for down in getattr(layer, "lora_A", {}).values():
        down.register_forward_hook(keep)
"""


def how_to_draw(family: Family, *, count: int) -> str:
    """For the model card: the Python that lets the parts count, after the adapter was loaded by diffusers."""
    return HOW_TO_DRAW.replace("(PARTS)", str(count)).replace("(SPAN)", f"{family.time_span:g}")


class AdapterParts:
    """Lets the parts of the adapter ``name`` count by the timestep that the denoiser is called with.

    ``beside`` names a frozen adapter that counts in their place while ``replaced`` is true. What counts stays
    until the next call of the denoiser: whoever computes a call once more in its backward pass calls the
    whole denoiser again before its blocks.
    """

    def __init__(self, family: Family, *, count: int, name: str, beside: str | None = None) -> None:
        self.count, self.name = count, name
        self.span = family.time_span
        self.replaced = False
        self._counting = count
        self.layers = [one for one in family.denoiser.modules() if name in getattr(one, "lora_A", {})]
        for layer in self.layers:
            layer.lora_A[name].register_forward_hook(self._of_parts)
            if beside is not None and beside in layer.lora_A:
                layer.lora_A[beside].register_forward_hook(self._of_other)
        family.denoiser.register_forward_pre_hook(self._look, with_kwargs=True)

    @contextmanager
    def held(self, below: int) -> Iterator[None]:
        """The parts before ``below`` have no gradient, and are after an update what they were, exactly."""
        before = [(block, block.detach().clone()) for block, _ in self._blocks(below)]
        for _, gradient in self._blocks(below):
            if gradient is not None:
                gradient.zero_()
        yield
        with torch.no_grad():
            for block, kept in before:
                block.copy_(kept)

    def _blocks(self, below: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """The weights of the parts before ``below``, and their gradients: rows of A, columns of B."""
        for layer in self.layers:
            for weight, dim in ((layer.lora_A[self.name].weight, 0), (layer.lora_B[self.name].weight, 1)):
                size = weight.shape[dim] * below // self.count
                gradient = None if weight.grad is None else weight.grad.narrow(dim, 0, size)
                yield weight.data.narrow(dim, 0, size), gradient

    def _look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The second argument of every denoiser is the timestep, alone or one for each row."""
        time = kwargs["timestep"] if "timestep" in kwargs else args[1]
        share = float(torch.as_tensor(time).flatten()[0]) / self.span
        self._counting = OTHER if self.replaced else stretch_of(share, count=self.count) + 1

    def _of_parts(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """What A says, zero beyond the parts that count."""
        dim = 1 if isinstance(module, nn.Conv2d) else output.ndim - 1
        rank = output.shape[dim]
        counts = torch.arange(rank, device=output.device) < rank * self._counting // self.count
        return output * counts.to(output.dtype).view([-1 if at == dim else 1 for at in range(output.ndim)])

    def _of_other(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output if self._counting == OTHER else torch.zeros_like(output)
