"""What nobody reads of the last layer is not computed, and what is read does not change."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training.tuning.text.batches import GroupBatch, make_batch
from training.tuning.text.loading import load_for_training
from training.tuning.text.models import Kind, TextModel
from training.tuning.text.tokens import EncodedGroup

# The part of a layer that works on every token by itself.
MLP = {"llama": "mlp.gate_proj", "gpt2": "mlp.c_fc", "bert": "intermediate.dense"}


def open_model(folder: Path, kind: Kind, **options: Any) -> TextModel:
    model = load_for_training(
        str(folder),
        kind=kind,
        lora=None,
        lora_was_set=False,
        precision="fp32",
        device=torch.device("cpu"),
        **options,
    )
    model.model.double()
    return model


def batch_of(model: TextModel) -> GroupBatch:
    """Two prompts of 5 tokens with two answers each, 3 and 2 tokens; an encoder's blocks hold both."""
    if model.layout == "separate":
        groups = [EncodedGroup(prefix=[], blocks=[[*range(10, 18)], [*range(20, 27)]], starts=[5, 5])] * 2
    else:
        groups = [EncodedGroup(prefix=[*range(10, 15)], blocks=[[20, 21, 22], [30, 31]], starts=[0, 0])] * 2
    return make_batch(groups, causal=model.layout != "separate")


def rows_seen(model: TextModel, part: str) -> list[int]:
    """Fills with the tokens that this part of each layer is given."""
    seen: list[int] = []
    layers = next(one for one in model.inner.modules() if isinstance(one, nn.ModuleList) and len(one) == 2)
    for layer in layers:
        layer.get_submodule(part).register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[-2]))
    return seen


@pytest.fixture
def folder(request: pytest.FixtureRequest, causal_folder: Callable[[str], Path], encoder: Path) -> Path:
    return encoder if request.param == "bert" else causal_folder(request.param)


@pytest.mark.parametrize(
    ("folder", "architecture", "kind", "last"),
    [
        # Answer tokens are predicted by the prompt's last, which two answers share, and by all but their own
        # last: 1 + 2 + 1 of each group's 10 tokens.
        ("llama", "llama", "causal", 8),
        ("gpt2", "gpt2", "causal", 8),
        # A reward is read at each answer's last token, an encoder's at its first.
        ("llama", "llama", "reward", 4),
        ("bert", "bert", "reward", 4),
    ],
    indirect=["folder"],
)
def test_last_layer_computes_what_is_read(folder: Path, architecture: str, kind: Kind, last: int) -> None:
    model = open_model(folder, kind)
    batch, seen = batch_of(model), rows_seen(model, MLP[architecture])
    read = model.token_logprobs if kind == "causal" else model.outputs
    read(batch).sum().backward()
    assert seen == [batch.tokens, last]
    some = {
        name: value.grad.clone() for name, value in model.model.named_parameters() if value.grad is not None
    }

    model.model.zero_grad()
    at = batch.predict_at if kind == "causal" else batch.first if architecture == "bert" else batch.last
    whole = model.states(batch)
    assert seen[2:] == [batch.tokens] * 2
    torch.testing.assert_close(model.states(batch, at=at), whole.index_select(0, at), rtol=0, atol=1e-12)
    states = whole.index_select(0, at)
    again = model.token_logprobs(batch, states) if kind == "causal" else model.score_head(states)
    again.sum().backward()
    for name, value in model.model.named_parameters():
        if value.grad is not None:
            torch.testing.assert_close(value.grad, some[name], rtol=1e-9, atol=1e-12)


def test_checkpointing_computes_the_same_part_again(llama: Path) -> None:
    """The backward pass runs each layer once more, after other tokens of another batch were read."""
    model = open_model(llama, "causal", gradient_checkpointing=True)
    batch, seen = batch_of(model), rows_seen(model, MLP["llama"])
    logps = model.token_logprobs(batch)
    with torch.no_grad():
        model.states(batch)
    logps.sum().backward()
    assert seen == [batch.tokens, 8, batch.tokens, batch.tokens, 8, batch.tokens]
