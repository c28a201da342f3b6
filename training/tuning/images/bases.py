"""What ``base`` of an image run names: a pipeline, or an adapter and the pipeline under it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.tuning.errors import BadInput

LORA_FILE = "pytorch_lora_weights.safetensors"
PERSONAL_FILE = "ip_adapter.safetensors"
GENERATION_FILE = "generation_config.json"
GENERATION_KEYS = {"num_inference_steps", "guidance_scale", "height", "width"}


@dataclass(frozen=True)
class ImageBase:
    """``pipeline`` is a local folder or hub id; ``adapter`` a file of LoRA weights for it, ``person`` one of
    keys and values for people, or None. ``parts``: how many the adapter has, if it is one in parts.
    """

    pipeline: str
    adapter: Path | None = None
    person: Path | None = None
    parts: int | None = None


def resolve_base(base: str | None) -> ImageBase:
    """The pipeline and adapter behind ``base``.

    An adapter folder holds ``pytorch_lora_weights.safetensors`` and a ``metadata.json`` whose key ``base``
    names what the adapter was trained from: the pipeline, or an adapter folder that it went on from (it then
    contains that one, and only the pipeline below both matters). A relative path is relative to the adapter
    folder.
    """
    if not base:
        raise BadInput(
            "an image model is needed: a diffusers folder or a hub id", file="run.json", field="base"
        )
    folder = Path(base)
    files = [folder / name for name in (LORA_FILE, PERSONAL_FILE) if (folder / name).is_file()]
    if not files:
        return ImageBase(base)
    file = files[0]
    metadata = folder / "metadata.json"
    if not metadata.is_file():
        raise BadInput(f"the folder has {file.name} but no metadata.json that names its base", file=folder)
    facts = json.loads(metadata.read_text(encoding="utf-8"))
    named = facts.get("base")
    if not isinstance(named, str) or not named:
        raise BadInput("must name the pipeline that the adapter belongs to", file=metadata, field="base")
    below = folder / named if (folder / named).exists() else Path(named)
    pipeline = resolve_base(str(below) if below.exists() else named).pipeline
    if file.name == PERSONAL_FILE:
        return ImageBase(pipeline, person=file)
    parts = facts["config"]["parts"] if facts.get("method") == "short_ft" else None
    return ImageBase(pipeline, file, parts=parts)


def adapter_beside(model: str, own: ImageBase, *, needed: str, field: str) -> Path:
    """The weights of the adapter ``model``, which must be of the same pipeline as ``own``. ``needed`` says
    that it is an adapter.
    """
    found = resolve_base(model)
    if found.adapter is None or found.parts is not None:
        raise BadInput(needed, field=field)
    if _place(found.pipeline) != _place(own.pipeline):
        raise BadInput(
            f"is of {found.pipeline}, and the model it is used with of {own.pipeline}", field=field
        )
    return found.adapter


def _place(pipeline: str) -> str:
    return str(Path(pipeline).resolve()) if Path(pipeline).exists() else pipeline


def pickled_weights(folder: Path) -> list[Path]:
    """Files in a folder that hold weights as a pickle."""
    return sorted(path for path in folder.glob("*") if path.suffix in {".bin", ".pt", ".pth", ".ckpt"})


def check_tokenizer(tokenizer: Any, *, vocabulary: int, base: str) -> None:
    """BadInput for a tokenizer without words, as transformers makes one where files are missing, or for too
    many.
    """
    special = len(set(tokenizer.all_special_ids))
    if len(tokenizer) <= special + 1:
        raise BadInput(
            "the folder has no tokenizer, or one without a vocabulary", file=base, field="tokenizer"
        )
    if len(tokenizer) > vocabulary:
        message = f"has {len(tokenizer)} words, but the text encoder knows {vocabulary}"
        raise BadInput(message, file=base, field="tokenizer")


def generation_config(pipeline: str) -> dict[str, Any]:
    """How a model says that it likes to be sampled: its ``generation_config.json``, checked, or nothing.

    Keys: num_inference_steps, guidance_scale, height, width.
    """
    path = Path(pipeline) / GENERATION_FILE
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"not JSON: {error}", file=path) from None
    if unknown := sorted(set(found) - GENERATION_KEYS):
        raise BadInput(
            f"unknown key; known are {', '.join(sorted(GENERATION_KEYS))}", file=path, field=unknown[0]
        )
    return found


def copy_generation_defaults(base: str | None, folder: Path) -> None:
    """Let a result be sampled as its base likes it, if the base says so."""
    path = Path(resolve_base(base).pipeline) / GENERATION_FILE
    if path.is_file():
        (folder / GENERATION_FILE).write_bytes(path.read_bytes())
