"""Families of image models, and the way from a base to the one that it belongs to."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch

from training.tuning.errors import BadInput
from training.tuning.images.bases import pickled_weights
from training.tuning.images.families.base import Conditioning, Family
from training.tuning.images.families.consistency import LatentConsistency
from training.tuning.images.families.diffusion_transformer import PixArtAlpha, PixArtSigma, Sana
from training.tuning.images.families.editors import Editor, FluxKontext, InstructPix2Pix
from training.tuning.images.families.flow import Flux, StableDiffusion3
from training.tuning.images.families.stable_diffusion import StableDiffusion, StableDiffusionXL

__all__ = ["EDITORS", "Conditioning", "Editor", "Family", "check_weights", "load_family", "local_index"]

FAMILIES: dict[str, type[Family]] = {
    one.pipeline_class: one
    for one in (
        StableDiffusion,
        StableDiffusionXL,
        StableDiffusion3,
        Flux,
        PixArtSigma,
        PixArtAlpha,
        Sana,
        LatentConsistency,
        InstructPix2Pix,
        FluxKontext,
    )
}
EDITORS = [name for name, one in FAMILIES.items() if one.edits]
SUPPORTED = (
    f"supported: {', '.join(name for name in FAMILIES if name not in EDITORS)} with AutoencoderKL or "
    "AutoencoderTiny, SanaPipeline with AutoencoderDC"
)
NOT_LOADED: dict[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"safety_checker": None, "requires_safety_checker": False},
    "LatentConsistencyModelPipeline": {"safety_checker": None, "requires_safety_checker": False},
    "StableDiffusionXLPipeline": {"add_watermarker": False},
    "StableDiffusionInstructPix2PixPipeline": {"safety_checker": None, "requires_safety_checker": False},
}


def load_family(base: str, *, device: torch.device, edits: bool = False) -> Family:
    """Load a pipeline, in float32 and evaluation mode, from a local folder or a hub id. ``edits``: an editor.

    Raises BadInput for another family, a part that it cannot use, and pickled weights.
    """
    folder = Path(base)
    index = local_index(folder) if folder.exists() else _hub_index(base)
    name = index["_class_name"]
    if name not in FAMILIES:
        raise BadInput(
            f"pipeline {name} is not supported; {SUPPORTED}",
            file=folder / "model_index.json",
            field="_class_name",
        )
    family_class = FAMILIES[name]
    if family_class.edits != edits:
        problem = f"{name} edits no pictures; editors are {', '.join(EDITORS)}"
        if not edits:
            problem = f"{name} edits pictures: image_edit draws with it, and motion_nft trains it"
        raise BadInput(problem, file=base, field="base")
    if folder.exists():
        check_weights(folder, [family_class.denoiser_name, "vae", *family_class.text_encoders], index)
    # A part that the index leaves empty has to be left out by hand.
    empty = {part: None for part, kind in index.items() if isinstance(kind, list) and kind[0] is None}
    try:
        pipeline = getattr(diffusers, name).from_pretrained(
            base,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=folder.exists(),
            **empty | NOT_LOADED.get(name, {}),
        )
    except (OSError, ValueError) as error:
        raise BadInput(f"the image model cannot be loaded: {error}", file=base) from error
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    return family_class(pipeline, base=base, supported=SUPPORTED)


def check_weights(folder: Path, parts: list[str], index: dict[str, Any]) -> None:
    """Refuse, before anything is loaded, a part that has no weights or holds them as a pickle only."""
    for part in parts:
        if index.get(part, [None])[0] is None or any((folder / part).glob("*.safetensors")):
            continue
        if pickles := pickled_weights(folder / part):
            message = "weights are a pickle, which can run code; only safetensors are read"
            raise BadInput(message, file=pickles[0])
        raise BadInput(f"{part} has no weights (*.safetensors)", file=folder / part)


def local_index(folder: Path) -> dict[str, Any]:
    """What a pipeline's folder says of its parts. BadInput if it says nothing."""
    index = folder / "model_index.json"
    if folder.is_file() or not index.is_file():
        raise BadInput(f"not a diffusers folder: it has no model_index.json; {SUPPORTED}", file=folder)
    try:
        found: dict[str, Any] = json.loads(index.read_text())
        found["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"not a pipeline's index: {error!r}", file=index) from error
    return found


def _hub_index(base: str) -> dict[str, Any]:
    try:
        return dict(diffusers.DiffusionPipeline.load_config(base))
    except (OSError, ValueError) as error:
        raise BadInput(f"the image model cannot be found: {error}", file=base) from error
