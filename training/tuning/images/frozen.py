"""Frozen convolutions that keep nothing for a gradient that nobody asks for.

PyTorch's convolution keeps its input for the gradient of its weights, also when they are frozen. Of a U-Net
that learns by an adapter on its attention layers that is a third of what a residual block keeps.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def keep_less(module: nn.Module) -> None:
    """Let the convolutions of ``module`` keep their input only while their weights learn. Values and
    gradients stay what they were, bit by bit.
    """
    for one in module.modules():
        if type(one) is nn.Conv2d and one.padding_mode == "zeros" and not isinstance(one.padding, str):
            one.__class__ = ThriftyConv2d


class ThriftyConv2d(nn.Conv2d):
    """A convolution with the same weights under the same names."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        learns = weight.requires_grad or (bias is not None and bias.requires_grad)
        if learns or not (torch.is_grad_enabled() and input.requires_grad):
            return super()._conv_forward(input, weight, bias)
        found: Tensor = _FrozenConvolution.apply(
            input, weight, bias, self.stride, self.padding, self.dilation, self.groups
        )
        return found


class _FrozenConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape, ctx.dtype, ctx.settings = x.shape, x.dtype, settings
        return F.conv2d(x, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        found = torch.nn.grad.conv2d_input(ctx.shape, weight.to(grads[0].dtype), grads[0], *ctx.settings)
        return found.to(ctx.dtype), None, None, None, None, None, None
