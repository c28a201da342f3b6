"""Latent consistency models (arXiv:2310.04378): a U-Net that is told the guidance it was distilled with."""

import torch
from diffusers import LatentConsistencyModelPipeline
from jaxtyping import Float, Real
from torch import Tensor, nn

from training.tuning.errors import BadInput
from training.tuning.images.families.base import Conditioning
from training.tuning.images.families.stable_diffusion import StableDiffusion


class LatentConsistency(StableDiffusion):
    """One pass tells the noise under guidance: ``conditioning["guidance"]`` (N,), else the model's usual one.

    SD-Turbo and SDXL-Turbo are not of this kind: their pipelines are Stable Diffusion's.
    """

    pipeline_class = "LatentConsistencyModelPipeline"
    pipeline: LatentConsistencyModelPipeline
    not_given = ("class_embed_type", "num_class_embeds")

    def check(self, *, base: str, supported: str) -> None:
        """A U-Net for text and guidance."""
        super().check(base=base, supported=supported)
        if self.denoiser.config.time_cond_proj_dim is None:
            problem = "the U-Net takes no guidance (time_cond_proj_dim), which this pipeline tells it"
            raise BadInput(problem, file=base, field="unet")

    @property
    def reads_guidance(self) -> bool:
        """There is no second pass without prompt."""
        return True

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Float[Tensor, "N C h w"],
        timesteps: Real[Tensor, " N"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "N C h w"]:
        """The U-Net's answer, told w, which is the scale less one."""
        usual = torch.tensor(float(self.sampling_defaults["guidance_scale"]), device=noisy.device)
        scale = conditioning.get("guidance", usual.expand(len(noisy)))
        told = self.pipeline.get_guidance_scale_embedding(
            scale.float().cpu() - 1, embedding_dim=self.denoiser.config.time_cond_proj_dim
        )
        return denoiser(
            noisy,
            self.noise.read(timesteps),
            timestep_cond=told.to(noisy),
            encoder_hidden_states=conditioning["embeddings"],
            return_dict=False,
        )[0]
