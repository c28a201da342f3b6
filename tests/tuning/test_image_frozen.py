"""Frozen convolutions: the values and gradients of torch's, and nothing kept that is not needed."""

import copy

import pytest
import torch
from torch import nn

from training.tuning.images.frozen import ThriftyConv2d, keep_less

SETTINGS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 1, "bias": False},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
]


def pair(settings: dict[str, int]) -> tuple[nn.Conv2d, nn.Conv2d]:
    """A frozen convolution, and its thrifty copy."""
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, **settings).requires_grad_(False)
    thrifty = copy.deepcopy(plain)
    keep_less(thrifty)
    assert type(thrifty) is ThriftyConv2d
    return plain, thrifty


def kept(module: nn.Conv2d, x: torch.Tensor) -> list[tuple[int, ...]]:
    """The shapes of what a pass keeps for its gradient."""
    shapes: list[tuple[int, ...]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(x)
    return shapes


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("settings", SETTINGS)
def test_values_and_gradients_are_torchs_own(settings, autocast):
    found = []
    for module in pair(settings):
        x = torch.randn(3, 4, 8, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            said = module(x)
        said.float().square().sum().backward()
        found.append((said.detach(), x.grad))
    (said, gradient), (own, own_gradient) = found
    assert own.dtype == said.dtype
    torch.testing.assert_close(own, said)
    torch.testing.assert_close(own_gradient, gradient)


def test_only_the_weights_are_kept():
    """2 × 4 × 8 × 8 is the input, which torch keeps and a frozen convolution does not need."""
    plain, thrifty = pair(SETTINGS[0])
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    assert kept(plain, x) == [(2, 4, 8, 8), (6, 4, 3, 3)]
    assert kept(thrifty, x) == [(6, 4, 3, 3)]


def test_weights_that_learn_get_their_gradient():
    plain, thrifty = (one.requires_grad_(True) for one in pair(SETTINGS[0]))
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    for module in (plain, thrifty):
        module(x).square().sum().backward()
    torch.testing.assert_close(thrifty.weight.grad, plain.weight.grad)
    torch.testing.assert_close(thrifty.bias.grad, plain.bias.grad)
