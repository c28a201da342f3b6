"""Editors: models that are shown a picture, and told how to change it.

``encode_source`` gives what they are shown, (B, C, h, w), as ``conditioning["picture"]``.
"""

from collections.abc import Sequence

import torch
from diffusers import FluxKontextPipeline, StableDiffusionInstructPix2PixPipeline
from jaxtyping import Float
from torch import Tensor

from training.tuning.images.families.base import Conditioning, Family
from training.tuning.images.families.flow import Flux
from training.tuning.images.families.stable_diffusion import StableDiffusion


class Editor(Family):
    """What is edited is of the size of the edit."""

    edits = True

    def encode_source(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """What the denoiser is shown of pictures in -1..1: their latents."""
        return self.encode_images(pixels)


class InstructPix2Pix(Editor, StableDiffusion):
    """InstructPix2Pix (arXiv:2211.09800): the U-Net reads the picture's latents, unscaled, as more channels.

    Guidance is that of the instruction; that of the picture is 1.
    """

    pipeline_class = "StableDiffusionInstructPix2PixPipeline"
    pipeline: StableDiffusionInstructPix2PixPipeline
    read_at_once = 2

    def encode_source(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """As the pipeline gives them to the U-Net."""
        return self.encode_images(pixels) / self.pipeline.vae.config.scaling_factor

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """``embeddings`` (B, L, D)."""
        return {"embeddings": self.pipeline._encode_prompt(list(prompts), self.device, 1, False).float()}

    def read(self, noisy: Float[Tensor, "N C h w"], conditioning: Conditioning) -> Float[Tensor, "N D h w"]:
        """What the U-Net reads: the noisy latents, and those of the picture."""
        return torch.cat([noisy, conditioning["picture"].to(noisy)], dim=1)


class FluxKontext(Editor, Flux):
    """FLUX.1 Kontext (arXiv:2506.15742): the picture's patches follow those of the edit, at positions of
    their own.
    """

    pipeline_class = "FluxKontextPipeline"
    pipeline: FluxKontextPipeline

    def sequence(self, noisy: Float[Tensor, "N C h w"], conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """Patches and positions of both."""
        edited, places = super().sequence(noisy, conditioning)
        shown, others = super().sequence(conditioning["picture"].to(noisy), conditioning)
        others = others.clone()
        others[..., 0] = 1
        return torch.cat([edited, shown], dim=1), torch.cat([places, others], dim=0)
