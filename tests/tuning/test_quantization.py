"""Bases in 4 and 8 bits: real arithmetic of bitsandbytes on the CPU, and what is refused."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tuning.text_models import save_causal
from tests.tuning.text_runs import QUICK, make_run, metrics, pair_rows, result_weights, run
from training.tuning.config import LoraConfig
from training.tuning.errors import BadInput
from training.tuning.text import quantization
from training.tuning.text.loading import load_for_training
from training.tuning.text.quantization import quantizing


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide enough for blocks of 64 weights."""
    return save_causal(tmp_path_factory.mktemp("wide"), "llama", hidden_size=64, intermediate_size=128)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_step_zero_and_learning(kind: str, base: Path, tmp_path: Path) -> None:
    """Step 0 is exact, the adapter learns, and it is saved in float32 for the base as it was."""
    pytest.importorskip("bitsandbytes", reason="the extra quantization is not installed")
    config = QUICK | {"quantization": kind, "learning_rate": 5e-3, "epochs": 6, "batch_size": 12, "warmup": 0}
    folder = make_run(tmp_path / "run", "dpo", base=base, config=config)
    assert run(folder) == 0
    rows = metrics(folder)
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[0]["rewards/margin"] == 0.0
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert {value.dtype for value in result_weights(folder).values()} == {torch.float32}
    adapter = json.loads((folder / "result" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(base)


@pytest.mark.parametrize(("kind", "name", "bits"), [("nf4", "Linear4bit", 4), ("int8", "Linear8bitLt", 8)])
def test_the_base_is_quantized_and_its_heads_are_not(kind: Any, name: str, bits: int, base: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="the extra quantization is not installed")
    options: dict[str, Any] = {"lora": LoraConfig(), "lora_was_set": True, "precision": "fp32"}
    loaded = load_for_training(
        str(base), kind="reward", device=torch.device("cpu"), quantization=kind, **options
    )
    cls = getattr(bitsandbytes.nn, name)
    quantized = [one for one, module in loaded.inner.named_modules() if isinstance(module, cls)]
    assert len(quantized) == 2 * 7  # four of attention and three of the MLP, in two layers
    weight = loaded.inner.model.layers[0].mlp.up_proj.base_layer.weight
    assert weight.numel() * weight.element_size() == 64 * 128 * bits // 8
    scores = [value for one, value in loaded.model.named_parameters() if "score" in one]
    assert scores
    assert all(value.dtype == torch.float32 for value in scores)


def test_a_reward_model_on_four_bits(base: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra quantization is not installed")
    config = {"quantization": "nf4", "max_length": 128, "max_steps": 2, "log_every": 1}
    folder = make_run(
        tmp_path / "run", "reward_model", base=base, config=config, held_out=pair_rows(3, seed=1)
    )
    assert run(folder) == 0
    assert any("score" in name for name in result_weights(folder))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lora": None}, "quantization needs lora"),
        ({"merged": True}, "merged does not go with quantization"),
    ],
)
def test_what_does_not_go_together(config: dict[str, Any], message: str, tmp_path: Path, capsys: Any) -> None:
    folder = make_run(tmp_path / "run", "dpo", base=None, config=config | {"quantization": "nf4"})
    assert run(folder) == 1
    assert message in capsys.readouterr().err


def test_without_the_package_or_the_device(monkeypatch: Any) -> None:
    with pytest.raises(BadInput, match="cannot quantize on meta"):
        quantizing("nf4", dtype=torch.float32, device=torch.device("meta"))
    monkeypatch.setattr(quantization.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="the package bitsandbytes is not installed"):
        quantizing("int8", dtype=torch.float32, device=torch.device("cpu"))


def test_options_for_loading() -> None:
    pytest.importorskip("bitsandbytes", reason="the extra quantization is not installed")
    assert quantizing(None, dtype=torch.float32, device=torch.device("cpu")) is None
    found = quantizing("nf4", dtype=torch.bfloat16, device=torch.device("cuda:1"))
    assert found is not None
    config = found["quantization_config"]
    assert found["device_map"] == {"": torch.device("cuda:1")}
    assert (config.load_in_4bit, config.bnb_4bit_quant_type) == (True, "nf4")
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert {"lm_head", "score"} <= set(config.llm_int8_skip_modules)
