"""Stable Diffusion 3 and FLUX: transformers that predict the velocity of a rectified flow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline
from jaxtyping import Float, Real
from torch import Tensor, nn

from training.tuning.images.families.base import Conditioning, call_default
from training.tuning.images.families.transformer import Transformer
from training.tuning.images.flux_interfaces import flux_layers, lost_flux_layers
from training.tuning.images.interfaces import write_interface_file


class StableDiffusion3(Transformer):
    """Stable Diffusion 3 and 3.5 (arXiv:2403.03206); the third text encoder, T5, may be missing."""

    pipeline_class = "StableDiffusion3Pipeline"
    text_encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    pipeline: StableDiffusion3Pipeline

    @property
    def reader(self) -> tuple[Any, int]:
        """T5 if there is one, at the pipeline's own length."""
        t5 = self.pipeline.tokenizer_3
        return super().reader if t5 is None else (t5, int(call_default(self.pipeline, "max_sequence_length")))

    @property
    def pixel_multiple(self) -> int:
        """The autoencoder's factor times the patch."""
        return int(self.pipeline.vae_scale_factor * self.denoiser.config.patch_size)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """``embeddings`` (B, L, D) and ``pooled`` (B, P)."""
        embeddings, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), None, None, device=self.device, do_classifier_free_guidance=False
        )
        return {"embeddings": embeddings.float(), "pooled": pooled.float()}

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Float[Tensor, "N C h w"],
        timesteps: Real[Tensor, " N"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "N C h w"]:
        """The velocity."""
        return denoiser(
            hidden_states=noisy,
            timestep=self.noise.read(timesteps),
            encoder_hidden_states=conditioning["embeddings"],
            pooled_projections=conditioning["pooled"],
            return_dict=False,
        )[0]


class Flux(Transformer):
    """FLUX.1: latents packed in patches of 2 × 2; a model distilled with guidance is told what it is sampled
    with.
    """

    pipeline_class = "FluxPipeline"
    text_encoders = ("text_encoder", "text_encoder_2")
    pipeline: FluxPipeline

    @property
    def _latent_channels(self) -> int:
        return int(self.denoiser.config.in_channels) // 4

    @property
    def native_size(self) -> tuple[int, int]:
        """Height and width that the pipeline draws by itself, in pixels."""
        side = self.pipeline.default_sample_size * self.pipeline.vae_scale_factor
        return side, side

    @property
    def reads_guidance(self) -> bool:
        """FLUX never draws without a prompt: guidance is an input, or was distilled away."""
        return True

    @property
    def time_span(self) -> float:
        """The transformer is called with σ itself."""
        return 1.0

    def sampling_sigmas(self, steps: int) -> list[float]:
        """As the pipeline spaces them."""
        return [float(one) for one in np.linspace(1.0, 1 / steps, steps)]

    @property
    def reader(self) -> tuple[Any, int]:
        """T5 at the pipeline's own length."""
        return self.pipeline.tokenizer_2, int(call_default(self.pipeline, "max_sequence_length"))

    @property
    def pixel_multiple(self) -> int:
        """The autoencoder's factor times the patch of two."""
        return int(self.pipeline.vae_scale_factor * 2)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """``embeddings`` (B, L, D) of T5 and ``pooled`` (B, P) of CLIP."""
        embeddings, pooled, _ = self.pipeline.encode_prompt(list(prompts), None, device=self.device)
        return {"embeddings": embeddings.float(), "pooled": pooled.float()}

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Float[Tensor, "N C h w"],
        timesteps: Real[Tensor, " N"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "N C h w"]:
        """The velocity, unpacked."""
        count, _, height, width = noisy.shape
        factor = self.pipeline.vae_scale_factor
        patches, ids = self.sequence(noisy, conditioning)
        guidance = None
        if self.denoiser.config.guidance_embeds:
            usual = torch.tensor(float(self.sampling_defaults["guidance_scale"]), device=noisy.device)
            guidance = conditioning.get("guidance", usual.expand(count))
        packed = denoiser(
            hidden_states=patches,
            timestep=self.noise.read(timesteps) / 1000,
            guidance=guidance,
            pooled_projections=conditioning["pooled"],
            encoder_hidden_states=conditioning["embeddings"],
            txt_ids=torch.zeros(conditioning["embeddings"].shape[1], 3, device=noisy.device),
            img_ids=ids,
            return_dict=False,
        )[0]
        drawn = packed[:, : height * width // 4]
        return self.pipeline._unpack_latents(drawn, height * factor, width * factor, factor)

    def save_for_interfaces(self, folder: Path, layers: dict[str, Tensor], *, alpha: float) -> None:
        """As ``lora_for_interfaces.safetensors``, by the names of the original model."""
        read = type(self.pipeline).lora_state_dict
        sizes = {
            name: int(module.out_features)
            for name, module in self.denoiser.named_modules()
            if hasattr(module, "out_features")
        }
        write_interface_file(
            folder,
            flux_layers(layers, alpha=alpha, sizes=sizes),
            lost=lambda written: lost_flux_layers(layers, written, read, alpha=alpha),
        )

    def sequence(self, noisy: Float[Tensor, "N C h w"], conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """Patches that the transformer reads (N, L, 4C), those that are drawn first, and their positions."""
        count, channels, height, width = noisy.shape
        ids = self.pipeline._prepare_latent_image_ids(
            count, height // 2, width // 2, noisy.device, noisy.dtype
        )
        return self.pipeline._pack_latents(noisy, count, channels, height, width), ids
