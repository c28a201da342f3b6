"""Compiled norms and feed-forward parts: the same values, the reference exact, one graph for all layers."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import QUICK, make_run, metrics, result_weights, run
from training.tuning.config import DPOConfig
from training.tuning.errors import BadInput
from training.tuning.text import compiling
from training.tuning.text.loading import load_for_training

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")


def trained(folder: Path, base: Path, method: str, **config: Any) -> tuple[list[dict[str, Any]], Any]:
    made = make_run(folder, method, base=base, config={"max_length": 128, "log_every": 1} | config)
    assert run(made) == 0
    return metrics(made), result_weights(made)


@needs_compiler
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_a_run_is_that_without(checkpointing: bool, tmp_path: Path, llama: Path) -> None:
    """DPO starts at ln 2 exactly, with the adapter off for the reference, and goes the same way."""
    config = QUICK | {"learning_rate": 1e-3, "max_steps": 4, "gradient_checkpointing": checkpointing}
    plain, weights = trained(tmp_path / "plain", llama, "dpo", **config)
    compiled, compiled_weights = trained(tmp_path / "compiled", llama, "dpo", **config, compile=True)
    assert compiled[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert compiled[0]["rewards/margin"] == 0
    for one, other in zip(compiled, plain, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
    for name, value in weights.items():
        torch.testing.assert_close(compiled_weights[name], value, rtol=0, atol=1e-4, msg=name)


@needs_compiler
def test_one_graph_for_all_layers_and_lengths(tmp_path: Path) -> None:
    """As many graphs for six layers as for two; with gradients and without the same bits."""
    counts = []
    for layers in (2, 6):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        folder = save_causal(tmp_path / str(layers), "llama", num_hidden_layers=layers)
        model = load_for_training(
            str(folder), kind="causal", lora=None, lora_was_set=False, precision="fp32",
            device=torch.device("cpu"),
        ).model  # fmt: skip
        # Two norms and a feed-forward part each, and a norm at the end; the last feed-forward part is left.
        assert compiling.compile_parts(model, torch.device("cpu")) == 2 * layers + layers - 1 + 1
        for length in (9, 17, 30):
            inputs = {"inputs_embeds": torch.randn(1, length, model.config.hidden_size)}
            with torch.no_grad():
                silent = attend(model, inputs)
            heard = attend(model, inputs)
            heard.sum().backward()
            assert torch.equal(silent, heard)
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert counts[0] == counts[1]


def attend(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    from training.tuning.text.attention import ordinary_attention

    with ordinary_attention(model):
        logits: torch.Tensor = model(**inputs).logits
    return logits


def test_no_compiler(llama: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    folder = make_run(tmp_path / "run", "dpo", base=llama, config=QUICK | {"compile": True})
    assert run(folder) == 1
    assert "config.compile: needs a compiler (g++ or clang++) on the worker" in capsys.readouterr().err


def test_nothing_to_gain(encoder: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    config = {"max_length": 128, "compile": True}
    assert run(make_run(tmp_path / "run", "reward_model", base=encoder, config=config)) == 1
    assert "has no part that gains by it" in capsys.readouterr().err


def test_what_it_does_not_go_with() -> None:
    for others in ({"quantization": "nf4"}, {"sharded": True, "processes": 2}):
        with pytest.raises(ValueError, match="compile does not go with"):
            DPOConfig(compile=True, **others)


@pytest.mark.parametrize(("missing", "said"), [("triton", "triton"), ("compiler", "gcc or clang")])
def test_a_gpu_without(missing: str, said: str, monkeypatch: Any) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None if missing == "triton" else object())
    monkeypatch.setattr("shutil.which", lambda name: None if missing == "compiler" else name)
    with pytest.raises(BadInput, match=said):
        compiling._check_compiler(torch.device("cuda"))
