"""Stable Diffusion 1.x, 2.x and XL: a U-Net with cross-attention in the latent space of an autoencoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from jaxtyping import Float, Real
from torch import Tensor, nn

from training.tuning.errors import BadInput
from training.tuning.images.families.base import Conditioning, Family
from training.tuning.images.interfaces import interface_layers, lost_layers, write_interface_file


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x, and what was distilled from them in one text encoder's terms."""

    pipeline_class = "StableDiffusionPipeline"
    denoiser_name = "unet"
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    pipeline: StableDiffusionPipeline
    read_at_once: ClassVar[int] = 1  # latents that the U-Net reads side by side
    added: str | None = None  # the kind of further inputs that the U-Net may ask for
    not_given: ClassVar[tuple[str, ...]] = ("class_embed_type", "num_class_embeds", "time_cond_proj_dim")

    def check(self, *, base: str, supported: str) -> None:
        """A U-Net for text alone."""
        unet, vae = self.denoiser, self.pipeline.vae
        if not isinstance(unet, UNet2DConditionModel):
            raise BadInput(
                f"unet {type(unet).__name__} is not supported; {supported}", file=base, field="unet"
            )
        channels = unet.config.in_channels
        if channels != self.read_at_once * vae.config.latent_channels:
            message = f"takes {channels} channels, the latents have {vae.config.latent_channels}"
            raise BadInput(
                f"{message} (inpainting and depth models are not supported)", file=base, field="unet"
            )
        needs = {key: unet.config.get(key) for key in (*self.not_given, "addition_embed_type")}
        if needs.pop("addition_embed_type") != self.added:
            needs["addition_embed_type"] = unet.config.get("addition_embed_type")
        for key, value in needs.items():
            if value is not None or key == "addition_embed_type":
                raise BadInput(f"needs {key}={value}, which is not supported", file=base, field="unet")
        if vae.config.get("shift_factor"):
            raise BadInput("a shift_factor is not used by this pipeline", file=base, field="vae")

    @property
    def pixel_multiple(self) -> int:
        """The autoencoder's factor times the U-Net's."""
        return self.pipeline.vae_scale_factor * 2 ** (len(self.denoiser.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """``embeddings`` (B, L, D)."""
        embeddings, _ = self.pipeline.encode_prompt(list(prompts), self.device, 1, False)
        return {"embeddings": embeddings.float()}

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Float[Tensor, "N C h w"],
        timesteps: Real[Tensor, " N"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "N C h w"]:
        """The U-Net's answer; of a model for people, to ``person`` (N, 1, D)."""
        told = {"image_embeds": [conditioning["person"]]} if "person" in conditioning else None
        return denoiser(
            self.read(noisy, conditioning),
            self.noise.read(timesteps),
            encoder_hidden_states=conditioning["embeddings"],
            added_cond_kwargs=told,
            return_dict=False,
        )[0]

    def read(self, noisy: Float[Tensor, "N C h w"], conditioning: Conditioning) -> Float[Tensor, "N D h w"]:
        """What the U-Net reads: the noisy latents."""
        return noisy

    def save_adapter(
        self, folder: Path, layers: dict[str, Tensor], metadata: dict[str, Any], *, file: str
    ) -> None:
        """As ``pytorch_lora_weights.safetensors``, with the U-Net's prefix.

        Under peft's names: diffusers' older ones differ between layers, and it looks at the first layer alone
        to find out which they are.
        """
        type(self.pipeline).save_lora_weights(
            folder,
            unet_lora_layers=layers,
            unet_lora_adapter_metadata=metadata,
            weight_name=file,
        )

    def save_for_interfaces(self, folder: Path, layers: dict[str, Tensor], *, alpha: float) -> None:
        """As ``lora_for_interfaces.safetensors``."""
        read = type(self.pipeline).lora_state_dict
        write_interface_file(
            folder,
            interface_layers(layers, alpha=alpha),
            lost=lambda written: lost_layers(layers, written, read),
        )


class StableDiffusionXL(StableDiffusion):
    """SDXL (arXiv:2307.01952): two text encoders, and sizes as further inputs.

    The sizes told are those of the picture, uncropped. Without a prompt the embeddings are zero if the
    pipeline samples so.
    """

    pipeline_class = "StableDiffusionXLPipeline"
    text_encoders = ("text_encoder", "text_encoder_2")
    pipeline: StableDiffusionXLPipeline
    added = "text_time"

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """``embeddings`` (B, L, D) and ``pooled`` (B, P)."""
        embeddings, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        told = torch.ones(len(prompts), device=embeddings.device)
        if self.pipeline.config.force_zeros_for_empty_prompt:
            told = torch.tensor([float(bool(prompt)) for prompt in prompts], device=embeddings.device)
        return {
            "embeddings": embeddings.float() * told[:, None, None],
            "pooled": pooled.float() * told[:, None],
        }

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Float[Tensor, "N C h w"],
        timesteps: Real[Tensor, " N"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "N C h w"]:
        """The U-Net's answer, told that the picture has its own size and was not cropped."""
        height, width = (side * self.pipeline.vae_scale_factor for side in noisy.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], device=noisy.device, dtype=torch.float32)
        return denoiser(
            noisy,
            self.noise.read(timesteps),
            encoder_hidden_states=conditioning["embeddings"],
            added_cond_kwargs={
                "text_embeds": conditioning["pooled"],
                "time_ids": sizes.expand(len(noisy), -1),
            },
            return_dict=False,
        )[0]
