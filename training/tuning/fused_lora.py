"""Linear layers with a LoRA adapter in one pass forward and one backward.

peft computes W x, then s B A x, multiplies and adds: two more passes over the outputs, and more backward.
Here the small product is added by the matrix multiplication itself. Values are those of peft to rounding;
with B = 0 they are exactly those without an adapter. On a layer in bfloat16 an adapter in float32 is computed
in bfloat16, as under autocast: peft would keep a float32 copy of the layer's input for the backward pass.
"""

from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


class _LinearWithLora(torch.autograd.Function):
    """y = x W' + b + s (x A') B' for x (..., I), W (O, I), A (r, I), B (O, r). W and b get no gradient.

    The first two terms are computed as the layer without an adapter does, to the bit: of any shape.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "*N I"],
        weight: Float[Tensor, "O I"],
        bias: Float[Tensor, " O"] | None,
        down: Float[Tensor, "r I"],
        up: Float[Tensor, "O r"],
        scaling: float,
    ) -> Float[Tensor, "*N O"]:
        rows = x.reshape(-1, x.shape[-1])
        low = rows @ down.T
        found = functional.linear(x, weight, bias).contiguous()
        found.view(-1, found.shape[-1]).addmm_(low, up.T, alpha=scaling)
        ctx.save_for_backward(rows, low, weight, down, up)
        ctx.scaling, ctx.shape = scaling, x.shape
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, "*N O"]) -> tuple[Tensor | None, ...]:
        rows, low, weight, down, up = ctx.saved_tensors
        of_x, _, _, of_down, of_up, _ = ctx.needs_input_grad
        gradient = gradient.reshape(-1, gradient.shape[-1])
        of_low = (gradient @ up).mul_(ctx.scaling)
        return (
            (gradient @ weight).addmm_(of_low, down).view(ctx.shape) if of_x else None,
            None,
            None,
            of_low.T @ rows if of_down else None,
            (gradient.T @ low).mul_(ctx.scaling) if of_up else None,
            None,
        )


class FusedLoraLinear(LoraLinear):
    """peft's layer, in one pass where it is a plain adapter on a frozen layer, else as peft does it."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        name = None if args or kwargs else self._plain_adapter(x)
        if name is None:
            found: Tensor = super().forward(x, *args, **kwargs)
            return found
        base = self.get_base_layer()
        given = (x, base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight)
        dtype = _computed_in(x) or base.weight.dtype
        cast = [None if one is None else one.to(dtype) for one in given]
        fused: Tensor = _LinearWithLora.apply(*cast, self.scaling[name])
        return fused

    def _plain_adapter(self, x: Tensor) -> str | None:
        """The one adapter that is active, if it is one of A and B alone and no more precise than float32."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        name: str = self.active_adapters[0]
        if name not in self.lora_A or name in self.lora_variant:
            return None
        base, down, up = self.get_base_layer(), self.lora_A[name], self.lora_B[name]
        dropout = self.lora_dropout[name]
        is_plain = (
            not (dropout.training and getattr(dropout, "p", 0))
            and up.bias is None
            and not any(one._forward_hooks or one._forward_pre_hooks for one in (base, down, up))
            and not any(one.requires_grad for one in base.parameters())
        )
        fits = _computed_in(x) or (
            x.dtype == base.weight.dtype
            and all(one.weight.dtype in (x.dtype, torch.float32) for one in (down, up))
        )
        return name if is_plain and fits else None


def _computed_in(x: Tensor) -> torch.dtype | None:
    """What autocast computes in, if it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def fuse_adapters(model: nn.Module) -> None:
    """Have every linear layer of ``model`` with a LoRA adapter computed in one pass, now and when other
    adapters become active. Quantized layers, and those that are neither peft's nor linear, stay as they are.
    """
    for module in model.modules():
        is_plain = isinstance(module, LoraLinear) and type(module) is LoraLinear  # bitsandbytes' are others
        if is_plain and type(module.base_layer) is nn.Linear:
            module.__class__ = FusedLoraLinear
