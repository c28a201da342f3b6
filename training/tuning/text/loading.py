"""Loading text models from folders, adapter folders and hub ids; safetensors only."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)
from transformers.utils.logging import disable_progress_bar

from training.tuning.config import LoraConfig
from training.tuning.errors import BadInput
from training.tuning.rewards.info import read_info
from training.tuning.text.attention import read_groups
from training.tuning.text.models import (
    HEAD,
    Kind,
    TextModel,
    attach_lora,
    keep_head_precise,
    layout_of,
    reads_pictures,
    without_dropout,
)
from training.tuning.text.quantization import Quantization, quantizing
from training.tuning.text.scorers import scorer_class

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
ADAPTER = "adapter_config.json"


def load_for_training(
    base: str | None,
    *,
    kind: Kind,
    lora: LoraConfig | None,
    lora_was_set: bool,
    precision: Literal["fp32", "bf16"],
    device: torch.device,
    gradient_checkpointing: bool = False,
    outputs: int = 1,
    members: Sequence[str] = (),
    quantization: Quantization | None = None,
) -> TextModel:
    """The model to train. A reward model has ``outputs`` outputs, or one adapter for each of ``members``.

    A folder with an adapter is trained on as it is (its own rank; asking for another one is an error), or,
    without ``lora``, merged and trained in full. New weights (adapter, score head) come from torch's global
    generator.
    """
    base = require_base(base)
    adapter = is_adapter(base)
    half = precision == "bf16" and lora is not None
    tokenizer = load_tokenizer(base)
    dtype = torch.bfloat16 if half else torch.float32
    if kind == "reward":
        _check_same_outputs(base, outputs, members)
    quantized = quantizing(
        quantization, dtype=torch.bfloat16 if precision == "bf16" else dtype, device=device
    )
    model = load_model(base, kind=kind, dtype=dtype, new_head=True, outputs=outputs, quantized=quantized)
    if adapter:
        _check_same_adapter(base, lora, lora_was_set)
        model = _with_adapter(model, base, trainable=lora is not None)
        model = model.merge_and_unload() if lora is None else model
    elif lora is not None:
        model = attach_lora(model, lora, kind=kind, members=members)
    without_dropout(model)
    if lora is not None:
        from training.tuning.fused_lora import fuse_adapters

        fuse_adapters(model)
    if kind == "reward":
        _settle_padding(model, tokenizer)
        keep_head_precise(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if not quantized:  # else it was loaded there
        model.to(device)
    model.eval()
    if gradient_checkpointing:
        model.train()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    layout = layout_of(model.config)
    if layout != "alone":
        read_groups(model.get_base_model() if hasattr(model, "get_base_model") else model)
    return TextModel(
        processor=load_processor(base),
        model=model,
        tokenizer=tokenizer,
        base=base,
        layout=layout,
        dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
        autocast=precision == "bf16" and lora is None,
        fresh=lora is not None and not adapter and kind == "causal",
        members=tuple(members),
    )


def load_for_use(
    base: str | None, *, kind: Kind, precision: Literal["fp32", "bf16"], device: torch.device
) -> TextModel:
    """A model that is only used; an adapter is merged into its base."""
    base = require_base(base)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = load_model(base, kind=kind, dtype=dtype)
    members = members_of(base)
    if members:
        model = _with_members(model, base, members)
    elif is_adapter(base):
        model = _with_adapter(model, base, trainable=False).merge_and_unload()
    tokenizer = load_tokenizer(base)
    if kind == "reward":
        _settle_padding(model, tokenizer)
        keep_head_precise(model)
    model.requires_grad_(False).to(device).eval()
    layout = layout_of(model.config)
    if layout != "alone":
        read_groups(model.get_base_model() if members else model)
    return TextModel(
        processor=load_processor(base),
        model=model,
        tokenizer=tokenizer,
        base=base,
        layout=layout,
        dtype=dtype,
        autocast=False,
        fresh=False,
        members=members,
    )


def require_base(base: str | None) -> str:
    """The base, which must be given."""
    if not base:
        raise BadInput(
            "name a model: a folder, a hub id, or a folder with an adapter", file="run.json", field="base"
        )
    return base


def is_adapter(base: str) -> bool:
    """True if ``base`` is a folder with a peft adapter."""
    return (Path(base) / ADAPTER).is_file()


def members_of(base: str) -> tuple[str, ...]:
    """The names of the adapters of an ensemble of reward models; none of any other base."""
    info = read_info(base)
    return tuple(info.members) if info else ()


def model_folder(base: str) -> str:
    """Where the full model lies: ``base`` itself, or what its adapter (or adapters) was trained on."""
    members = members_of(base)
    if not is_adapter(base) and not members:
        return base
    path = Path(base, *members[:1], ADAPTER)
    below = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not below or (Path(below).is_absolute() and not Path(below).exists()):
        raise BadInput(
            f'the adapter\'s base "{below}" is not there; write its place into the file',
            file=path,
            field="base_model_name_or_path",
        )
    return str(below)


def load_config(base: str) -> Any:
    """The model's config, without weights."""
    folder = model_folder(base)
    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise BadInput(f"no model can be loaded: {_first_line(error)}", file=folder) from None


def load_tokenizer(base: str) -> Any:
    """The tokenizer beside the model or adapter. It must be a fast one: offsets are needed."""
    folder = base
    if is_adapter(base) and not (Path(base) / "tokenizer_config.json").exists():
        folder = model_folder(base)
    if Path(folder).is_dir() and not any((Path(folder) / name).exists() for name in _TOKENIZER_FILES):
        raise BadInput("the folder holds no tokenizer (tokenizer.json)", file=folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"no tokenizer can be loaded: {_first_line(error)}", file=folder) from None
    if not tokenizer.is_fast:
        raise BadInput(
            "the tokenizer has no fast version (tokenizer.json), which is needed for offsets", file=folder
        )
    return tokenizer


def load_processor(base: str) -> Any:
    """What prepares pictures for the model; None if it reads none."""
    if not reads_pictures(load_config(base)):
        return None
    folder = base if (Path(base) / "processor_config.json").exists() else model_folder(base)
    try:
        return AutoProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise BadInput(f"no processor can be loaded: {_first_line(error)}", file=folder) from None


_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


def load_model(
    base: str,
    *,
    kind: Kind,
    dtype: torch.dtype,
    new_head: bool = False,
    outputs: int | None = None,
    quantized: dict[str, Any] | None = None,
) -> Any:
    """The full model below ``base``, its weights in ``dtype``. Pickled weights are refused, by name.

    A reward model gets ``outputs`` outputs; if None, as many as its folder says.

    A weight that the files lack is an error, but for a reward model's head if ``new_head`` allows it, or if
    an adapter brings it.
    """
    folder = model_folder(base)
    refuse_pickles(folder)
    config = load_config(base)
    if kind == "causal" and layout_of(config) == "separate":
        raise BadInput(
            f"{config.model_type} is an encoder and writes no text; use a causal model", file=folder
        )
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    options |= quantized or {}
    disable_progress_bar()
    try:
        if kind == "causal":
            kinds = AutoModelForImageTextToText if reads_pictures(config) else AutoModelForCausalLM
            model, report = kinds.from_pretrained(folder, **options)
        else:
            model, report = scorer_class(config).from_pretrained(
                folder, num_labels=outputs or outputs_of(base), **options
            )
    except (OSError, ValueError) as error:
        raise BadInput(f"no model can be loaded: {_first_line(error)}", file=folder) from None
    new = kind == "reward" and (new_head or is_adapter(base) or bool(members_of(base)))
    missing = [name for name in sorted(report["missing_keys"]) if not (new and _of_head(name))]
    if missing:
        what = (
            "no reward model: its head"
            if kind == "reward" and _of_head(missing[0])
            else "incomplete: the file"
        )
        raise BadInput(f"{what} has no {missing[0]}", file=folder)
    return model


def outputs_of(base: str) -> int:
    """How many outputs a reward model has: as it says itself, or one."""
    info = read_info(base)
    if info is not None:
        return 1 if info.members else info.outputs
    heads = [name for name in load_config(base).architectures or [] if "SequenceClassification" in name]
    return int(load_config(base).num_labels) if heads and not is_adapter(base) else 1


def _of_head(name: str) -> bool:
    return not (HEAD | {"pooler"}).isdisjoint(name.split("."))


def refuse_pickles(folder: str) -> None:
    """BadInput if a local folder has weights only in a format that can run code when it is opened."""
    path = Path(folder)
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return
    pickles = sorted(found for pattern in PICKLES for found in path.glob(pattern))
    if pickles:
        raise BadInput("pickled weights are not loaded; convert them to safetensors", file=pickles[0])
    raise BadInput("the folder holds no weights (*.safetensors)", file=folder)


def _with_adapter(model: Any, base: str, *, trainable: bool) -> Any:
    import peft

    refuse_pickles(base)
    return peft.PeftModel.from_pretrained(model, base, is_trainable=trainable)


def _with_members(model: Any, base: str, members: Sequence[str]) -> Any:
    import peft

    for name in members:
        refuse_pickles(str(Path(base) / name))
    found = peft.PeftModel.from_pretrained(model, str(Path(base) / members[0]), adapter_name=members[0])
    for name in members[1:]:
        found.load_adapter(str(Path(base) / name), adapter_name=name)
    return found


def _check_same_outputs(base: str, outputs: int, members: Sequence[str]) -> None:
    """BadInput if ``base`` is a reward model whose head has another shape than the one that is asked for."""
    info = read_info(base)
    if members_of(base) or (members and info is not None):
        raise BadInput(
            "adapters of an ensemble start from a model that is none yet; to go on with one of them, "
            "name its folder",
            file=base,
        )
    if info is not None and info.outputs != outputs:
        raise BadInput(
            f"this reward model has {info.outputs} outputs, and the config asks for {outputs}", file=base
        )


def _check_same_adapter(base: str, lora: LoraConfig | None, was_set: bool) -> None:
    if lora is None or not was_set:
        return
    path = Path(base) / ADAPTER
    existing = json.loads(path.read_text(encoding="utf-8"))
    if (existing["r"], existing["lora_alpha"]) != (lora.r, lora.alpha):
        raise BadInput(
            f"the adapter has rank {existing['r']} and alpha {existing['lora_alpha']} and is trained on as "
            "it is; "
            "leave lora out, or set it to null to train the merged weights",
            file=path,
            field="config.lora",
        )


def padding_token(tokenizer: Any) -> str:
    """A padding token that never ends a text, if the tokenizer has one; else its end token.

    Transformers scores the last token that is not padding; were padding the end token too, that would be the
    one before it. A reward model whose only special token is the end token gets texts without an end token.
    """
    choices = [tokenizer.pad_token, tokenizer.unk_token, tokenizer.bos_token]
    usable = [token for token in choices if token is not None and token != tokenizer.eos_token]
    return str(usable[0] if usable else tokenizer.eos_token)


def _settle_padding(model: Any, tokenizer: Any) -> None:
    tokenizer.pad_token = padding_token(tokenizer)
    model.config.pad_token_id = model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
