"""Bases in 4 or 8 bits under an adapter: QLoRA (arXiv:2305.14314), by bitsandbytes."""

import importlib.util
import logging
from typing import Any, Literal

import torch

from training.tuning.errors import BadInput
from training.tuning.text.models import HEAD

Quantization = Literal["nf4", "int8"]
DEVICES = {"cuda", "cpu", "xpu"}  # that bitsandbytes has arithmetic for


def quantizing(
    kind: Quantization | None, *, dtype: torch.dtype, device: torch.device
) -> dict[str, Any] | None:
    """Options of ``from_pretrained`` that quantize while loading; None without a kind.

    ``dtype`` is that of the arithmetic. Heads stay as they are: their scores and logits are what is compared.
    BadInput where bitsandbytes is missing or the device is none of its own.
    """
    if kind is None:
        return None
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadInput(
            'the package bitsandbytes is not installed: pip install "tiebreak[quantization]"',
            field="config.quantization",
        )
    if device.type not in DEVICES:
        raise BadInput(f"bitsandbytes cannot quantize on {device.type}", field="config.quantization")
    from transformers import BitsAndBytesConfig

    kept = sorted(HEAD | {"lm_head", "embed_out"})
    if kind == "int8":
        # Threshold 0: each token is rounded by itself. Columns that are spared because some token of a batch
        # has an outlier in them would make a text's values depend on what it is read with.
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0, llm_int8_skip_modules=kept)
        # It says so at every call: the arithmetic of int8 is float16, whatever the precision.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=kept,
        )
    return {"quantization_config": config, "device_map": {"": device}}
