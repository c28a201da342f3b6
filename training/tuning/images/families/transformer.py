"""What families whose denoiser is a transformer have in common."""

from pathlib import Path
from typing import Any

from torch import Tensor

from training.tuning.errors import BadInput
from training.tuning.images.families.base import Family


class Transformer(Family):
    """A pipeline with a part ``transformer``, whose latents are the autoencoder's."""

    denoiser_name = "transformer"

    def check(self, *, base: str, supported: str) -> None:
        """As many channels as the latents have."""
        channels, latents = self._latent_channels, self.pipeline.vae.config.latent_channels
        if channels != latents:
            message = f"takes {channels} channels, the latents have {latents}"
            raise BadInput(f"{message}; {supported}", file=base, field="transformer")

    @property
    def _latent_channels(self) -> int:
        return int(self.denoiser.config.in_channels)

    def save_adapter(
        self, folder: Path, layers: dict[str, Tensor], metadata: dict[str, Any], *, file: str
    ) -> None:
        """As ``pytorch_lora_weights.safetensors``, with the transformer's prefix."""
        type(self.pipeline).save_lora_weights(
            folder,
            transformer_lora_layers=layers,
            transformer_lora_adapter_metadata=metadata,
            weight_name=file,
        )
