"""PixArt and Sana: transformers that attend to the words of a language model and mask the padding."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import (
    AutoencoderDC,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
)
from diffusers.loaders.peft import PeftAdapterMixin
from jaxtyping import Float, Real
from peft import LoraConfig as PeftLoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from training.tuning.images.families.base import Conditioning, call_default
from training.tuning.images.families.transformer import Transformer


class PixArtSigma(Transformer):
    """PixArt-Σ (arXiv:2403.04692): T5, a U-Net's autoencoder and schedule.

    Prompts are read as they are, not lower-cased and stripped of markup as the pipeline does by default where
    two further packages are installed. diffusers gives the pipeline no loader of LoRA layers: adapters are
    peft's as well.
    """

    pipeline_class = "PixArtSigmaPipeline"
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    sampling_options: ClassVar[dict[str, Any]] = {"clean_caption": False, "use_resolution_binning": False}
    pipeline: PixArtSigmaPipeline | PixArtAlphaPipeline

    def check(self, *, base: str, supported: str) -> None:
        """As of every transformer; and from now on it takes adapters."""
        super().check(base=base, supported=supported)
        self.denoiser.__class__ = _WITH_ADAPTERS

    @property
    def reader(self) -> tuple[Any, int]:
        """T5 at the pipeline's own length."""
        return self.pipeline.tokenizer, int(call_default(self.pipeline, "max_sequence_length"))

    @property
    def pixel_multiple(self) -> int:
        """What the pipeline asks for, 8, and the autoencoder's factor times the patch."""
        return math.lcm(8, int(self.pipeline.vae_scale_factor * self.denoiser.config.patch_size))

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """``embeddings`` (B, L, D) and their ``mask`` (B, L)."""
        embeddings, mask, _, _ = self.pipeline.encode_prompt(
            list(prompts), False, device=self.device, max_sequence_length=self.reader[1]
        )
        return {"embeddings": embeddings.float(), "mask": mask}

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Float[Tensor, "N C h w"],
        timesteps: Real[Tensor, " N"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "N C h w"]:
        """The noise; a variance, if one was learned too, is left out."""
        answer = denoiser(
            noisy,
            encoder_hidden_states=conditioning["embeddings"],
            encoder_attention_mask=conditioning["mask"],
            timestep=self.noise.read(timesteps),
            added_cond_kwargs=self._told(noisy),
            return_dict=False,
        )[0]
        return answer[:, : noisy.shape[1]]

    def _told(self, noisy: Tensor) -> dict[str, Tensor | None]:
        return {"resolution": None, "aspect_ratio": None}

    def load_adapter(self, file: Path, *, name: str) -> None:
        """Into the transformer, which loads what it saves."""
        self.denoiser.load_lora_adapter(
            file.parent, prefix="transformer", weight_name=file.name, adapter_name=name, local_files_only=True
        )

    def save_adapter(
        self, folder: Path, layers: dict[str, Tensor], metadata: dict[str, Any], *, file: str
    ) -> None:
        """As the others', and in peft's format: ``adapter_config.json``, ``adapter_model.safetensors``."""
        SanaPipeline.save_lora_weights(
            folder,
            transformer_lora_layers=layers,
            transformer_lora_adapter_metadata=metadata,
            weight_name=file,
        )
        PeftLoraConfig(**metadata).save_pretrained(str(folder))
        own = {f"base_model.model.{name}": value for name, value in layers.items()}
        save_file(own, folder / "adapter_model.safetensors")

    @property
    def how_to_load_adapter(self) -> str:
        """With peft, on the pipeline's transformer."""
        return """
from diffusers import DiffusionPipeline
from peft import PeftModel

pipeline = DiffusionPipeline.from_pretrained(BASE)  # the base model named above
pipeline.transformer = PeftModel.from_pretrained(pipeline.transformer, "result")
"""


class PixArtAlpha(PixArtSigma):
    """PixArt-α (arXiv:2310.00426): at 1024 pixels it is told size and shape."""

    pipeline_class = "PixArtAlphaPipeline"

    def _told(self, noisy: Tensor) -> dict[str, Tensor | None]:
        if self.denoiser.config.sample_size != 128:
            return super()._told(noisy)
        height, width = (side * self.pipeline.vae_scale_factor for side in noisy.shape[-2:])
        told = torch.tensor([[height, width, height / width]], device=noisy.device, dtype=noisy.dtype)
        told = told.expand(len(noisy), -1)
        return {"resolution": told[:, :2], "aspect_ratio": told[:, 2:]}


class Sana(Transformer):
    """Sana (arXiv:2410.10629): linear attention, an autoencoder that compresses far and is no distribution,
    and a decoder-only language model that is asked to enhance the prompt and read while it listens.

    The empty prompt, for guidance and for dropped captions, is read without that instruction.
    """

    pipeline_class = "SanaPipeline"
    text_encoders = ("text_encoder",)
    autoencoders = (AutoencoderDC,)
    sampling_options: ClassVar[dict[str, Any]] = {"clean_caption": False, "use_resolution_binning": False}
    pipeline: SanaPipeline

    @property
    def reader(self) -> tuple[Any, int]:
        """Gemma at the pipeline's own length."""
        return self.pipeline.tokenizer, int(call_default(self.pipeline, "max_sequence_length"))

    @property
    def pixel_multiple(self) -> int:
        """What the pipeline asks for, 32, and the autoencoder's factor times the patch."""
        return math.lcm(32, int(self.pipeline.vae_scale_factor * self.denoiser.config.patch_size))

    @property
    def time_span(self) -> float:
        """Scaled as the transformer reads it."""
        return super().time_span * float(self.denoiser.config.timestep_scale)

    def sampling_sigmas(self, steps: int) -> list[float]:
        """As the solver of the released models spaces them."""
        count = self.train_timesteps
        return [float(one) for one in np.linspace(1 - 1 / count, 0, steps + 1)[:-1]]

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """``embeddings`` (B, L, D) and their ``mask`` (B, L)."""
        embeddings, mask, no_embeddings, no_mask = self.pipeline.encode_prompt(
            list(prompts),
            not all(prompts),
            device=self.device,
            max_sequence_length=self.reader[1],
            complex_human_instruction=call_default(self.pipeline, "complex_human_instruction"),
        )
        if no_embeddings is not None:
            told = torch.tensor([bool(prompt) for prompt in prompts], device=embeddings.device)
            embeddings = torch.where(told[:, None, None], embeddings, no_embeddings)
            mask = torch.where(told[:, None], mask, no_mask)
        return {"embeddings": embeddings.float(), "mask": mask}

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Float[Tensor, "N C h w"],
        timesteps: Real[Tensor, " N"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "N C h w"]:
        """The velocity."""
        return denoiser(
            noisy,
            encoder_hidden_states=conditioning["embeddings"],
            encoder_attention_mask=conditioning["mask"],
            timestep=self.noise.read(timesteps) * self.denoiser.config.timestep_scale,
            return_dict=False,
        )[0]


# By diffusers' own name, so that a pipeline saved with it is read by diffusers.
_WITH_ADAPTERS = type(
    PixArtTransformer2DModel.__name__,
    (PixArtTransformer2DModel, PeftAdapterMixin),
    {"__module__": PixArtTransformer2DModel.__module__},
)
