"""Instruction-following editors of pictures: a picture and a sentence in, the picture changed by it out."""

from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image

from training.tuning.config import ImageEditConfig
from training.tuning.errors import BadInput
from training.tuning.images.bases import resolve_base
from training.tuning.images.data import Frame
from training.tuning.images.families import check_weights, local_index

PLAIN = "StableDiffusionInstructPix2PixPipeline"
KONTEXT = "FluxKontextPipeline"
EDITORS = (PLAIN, "StableDiffusionXLInstructPix2PixPipeline", KONTEXT)
MULTIPLE = 16  # of pixels, which the autoencoders and patches of these pipelines need


class Editor:
    """A diffusers pipeline: InstructPix2Pix (arXiv:2211.09800) or FLUX.1 Kontext (arXiv:2506.15742), with the
    adapter that ``base`` may be.
    """

    def __init__(self, base: str | None, config: ImageEditConfig, *, device: torch.device) -> None:
        found = resolve_base(base) if base else None
        folder = Path(found.pipeline if found else "")
        if found is None or not folder.is_dir():
            raise BadInput("a folder with an editor of pictures is needed", file="run.json", field="base")
        index = local_index(folder)
        name = index["_class_name"]
        if name not in EDITORS:
            raise BadInput(f"{name} edits nothing; editors are {', '.join(EDITORS)}", file=folder)
        check_weights(folder, ["unet", "transformer", "vae", "text_encoder", "text_encoder_2"], index)
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        unchecked = {"safety_checker": None, "requires_safety_checker": False} if name == PLAIN else {}
        self.pipeline = getattr(diffusers, name).from_pretrained(
            folder, dtype=dtype, use_safetensors=True, local_files_only=True, **unchecked
        )
        if found.adapter is not None:
            self.pipeline.load_lora_weights(
                found.adapter.parent, weight_name=found.adapter.name, local_files_only=True
            )
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.to(device)
        self.options: dict[str, Any] = {
            "num_inference_steps": config.num_inference_steps,
            "guidance_scale": config.guidance_scale,
        }
        if name != KONTEXT:
            self.options["image_guidance_scale"] = config.image_guidance_scale
        self.name = name

    @torch.no_grad()
    def edit(self, image: Image.Image, instruction: str, *, seed: int) -> Image.Image:
        """The edited picture, of the same size."""
        generator = torch.Generator().manual_seed(seed)
        sizes: dict[str, Any] = {} if self.name == PLAIN else {"height": image.height, "width": image.width}
        if self.name == KONTEXT:  # which else draws a million pixels
            sizes |= {"max_area": image.height * image.width, "_auto_resize": False}
        found = self.pipeline(prompt=instruction, image=image, generator=generator, **self.options, **sizes)
        edited: Image.Image = found.images[0]
        return edited


def editable(image: Image.Image) -> Image.Image:
    """The picture at the nearest smaller size that an editor keeps."""
    height, width = (max(MULTIPLE, side // MULTIPLE * MULTIPLE) for side in (image.height, image.width))
    return Frame(height, width).apply(image)
