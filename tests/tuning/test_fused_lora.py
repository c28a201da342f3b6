"""Linear layers with an adapter in one pass: `training.tuning.fused_lora`."""

import copy

import peft
import pytest
import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import nn

from training.tuning.fused_lora import FusedLoraLinear, fuse_adapters

NAMES = ("first", "second")


class Two(nn.Module):
    """Two layers, and something between them that is no linear one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 10), nn.Linear(10, 4, bias=False)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


def with_adapters(**options):
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["a", "b"], **options)
    model = peft.get_peft_model(Two(), settings, adapter_name="first")
    model.add_adapter("second", settings)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value)
    fused = copy.deepcopy(model)
    fuse_adapters(fused)
    assert sum(isinstance(one, FusedLoraLinear) for one in fused.modules()) == 2
    return model, fused


def results(model, x, *, autocast=False):
    """What it says, and the gradients of all that has one, the input's too."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        said = model(x)
    said.float().square().sum().backward()
    found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return said.detach(), found | {"x": x.grad}


@pytest.mark.parametrize("shape", [(6,), (7, 6), (2, 5, 6)])
def test_values_and_gradients_are_those_of_peft(shape):
    model, fused = with_adapters()
    x = torch.randn(shape)
    (said, gradients), (own, of_own) = results(model, x), results(fused, x)
    torch.testing.assert_close(own, said)
    assert of_own.keys() == gradients.keys()
    assert len(gradients) == 5
    for name, value in gradients.items():
        torch.testing.assert_close(of_own[name], value, msg=name)


def test_an_input_that_is_no_block_of_memory():
    model, fused = with_adapters()
    x = torch.randn(6, 4, 5).permute(1, 2, 0)
    (said, gradients), (own, of_own) = results(model, x), results(fused, x)
    torch.testing.assert_close(own, said)
    torch.testing.assert_close(of_own["x"], gradients["x"])


@pytest.mark.parametrize("how", ["autocast", "a layer in bfloat16"])
def test_bfloat16(how):
    """Rounded on the way, at other places than by peft, and no more."""
    model, fused = with_adapters()
    x = torch.randn(32, 6).bfloat16().float()
    exact, of_exact = results(model, x)
    given = x
    if how != "autocast":
        given = x.bfloat16()
        for one in (model, fused):
            one.a.base_layer.bfloat16()
            one.b.base_layer.bfloat16()
    rounded = [results(one, given, autocast=how == "autocast") for one in (model, fused)]
    (said, gradients), (own, of_own) = rounded
    assert own.dtype == said.dtype == torch.bfloat16
    assert (own - exact).abs().max() < 0.02 * exact.abs().max()
    for name, value in gradients.items():
        assert of_own[name].dtype == value.dtype
        away, peft_away = ((one - of_exact[name]).norm() for one in (of_own[name], value))
        assert away < 2 * peft_away + 0.01 * of_exact[name].norm(), name


def saved_bytes(model, x):
    kept = {}

    def keep(value):
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        model(x)
    return sum(kept.values())


def test_a_layer_in_bfloat16_keeps_no_second_copy_of_its_input():
    model, fused = with_adapters()
    x = torch.randn(5000, 6).bfloat16().requires_grad_()
    for one in (model, fused):
        one.a.base_layer.bfloat16()
        one.b.base_layer.bfloat16()
    assert saved_bytes(fused, x) < 0.6 * saved_bytes(model, x)


def test_a_new_adapter_changes_no_bit():
    _, fused = with_adapters()
    for name, value in fused.named_parameters():
        if "lora_B" in name:
            nn.init.zeros_(value)
    for x in (
        torch.randn(33, 6),
        torch.randn(4, 33, 6),
        torch.randn(4, 6, 33).mT,
        torch.randn(4, 99, 6)[:, 9:42],
    ):
        for autocast in (False, True):
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                with_adapter = fused(x)
                with fused.disable_adapter():
                    assert torch.equal(with_adapter, fused(x))


def test_only_what_is_asked_for_gets_a_gradient():
    _, fused = with_adapters()
    fused.a.lora_A["first"].weight.requires_grad_(False)
    fused(torch.randn(3, 6)).sum().backward()
    assert fused.a.lora_A["first"].weight.grad is None
    assert fused.a.lora_B["first"].weight.grad is not None
    assert fused.a.base_layer.weight.grad is None
    assert fused.a.lora_B["second"].weight.grad is None


def test_a_second_derivative_is_refused():
    """Its backward pass could not be derived, so it says so."""
    _, fused = with_adapters()
    x = torch.randn(3, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(fused(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def zeroed(module, args, output):
    return output * 0


CASES = {
    "the other adapter": lambda model: model.set_adapter("second"),
    "both adapters": lambda model: model.base_model.set_adapter(list(NAMES)),
    "merged": lambda model: model.merge_adapter(),
    "a hook on A": lambda model: model.a.lora_A["first"].register_forward_hook(zeroed),
    "a layer that is trained too": lambda model: model.a.base_layer.weight.requires_grad_(),
    "other types": lambda model: model.a.lora_A["first"].double() and model.a.lora_B["first"].double(),
}


@pytest.mark.parametrize("change", CASES.values(), ids=CASES)
def test_what_peft_can_do_it_can_do(change):
    both = with_adapters()
    for model in both:
        change(model)
    x = torch.randn(8, 6)
    (said, gradients), (own, of_own) = (results(model, x) for model in both)
    torch.testing.assert_close(own, said)
    assert of_own.keys() == gradients.keys()
    for name, value in gradients.items():
        torch.testing.assert_close(of_own[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_dropout_is_pefts():
    model, fused = with_adapters(lora_dropout=0.5)
    x = torch.randn(8, 6)
    for is_training in (True, False):
        found = []
        for one in (model, fused):
            one.train(is_training)
            torch.manual_seed(1)
            found.append(one(x))
        torch.testing.assert_close(*found)


def test_merging_leaves_plain_layers():
    model, fused = with_adapters()
    x = torch.randn(8, 6)
    merged = fused.merge_and_unload()
    assert not any(isinstance(one, LoraLinear) for one in merged.modules())
    torch.testing.assert_close(merged(x), model(x))
