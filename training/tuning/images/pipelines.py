"""Pipeline families: what differs between image models, behind one small interface each.

Supported so far: the Stable-Diffusion family, that is a diffusers folder of class
``StableDiffusionPipeline`` whose U-Net is a ``UNet2DConditionModel``, with any noise schedule of
betas and any of the prediction types ``epsilon``, ``v_prediction`` and ``sample``.
"""

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from jaxtyping import Float, Int
from torch import Tensor, nn

from training.tuning.errors import BadInput
from training.tuning.images.bases import check_tokenizer, pickled_weights

SUPPORTED = "supported: StableDiffusionPipeline (UNet2DConditionModel with AutoencoderKL or AutoencoderTiny)"
PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class StableDiffusion:
    """The Stable-Diffusion family: one text encoder, a U-Net in the latent space of an autoencoder.

    ``schedule`` is the training noise schedule of the pipeline's scheduler, whatever its sampler.
    Latents are in the scale that the U-Net sees. ``safety_checker`` and the like are not loaded.
    """

    pipeline: StableDiffusionPipeline
    schedule: DDPMScheduler

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.pipeline.unet

    @property
    def device(self) -> torch.device:
        return self.pipeline.device

    @property
    def prediction_type(self) -> str:
        return self.schedule.config.prediction_type

    @property
    def train_timesteps(self) -> int:
        """How many timesteps the training schedule has; 0 is the least noisy."""
        return self.schedule.config.num_train_timesteps

    @property
    def pixel_multiple(self) -> int:
        """Height and width must be multiples of this: the autoencoder's factor and the U-Net's."""
        return self.pipeline.vae_scale_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def native_size(self) -> tuple[int, int]:
        """Height and width that the model draws by itself, in pixels."""
        size, factor = self.unet.config.sample_size, self.pipeline.vae_scale_factor
        height, width = (size, size) if isinstance(size, int) else size
        return height * factor, width * factor

    @torch.no_grad()
    def encode_images(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Latents of pictures in -1..1; of a distribution (AutoencoderKL) its mode."""
        vae = self.pipeline.vae
        encoded = vae.encode(pixels.to(self.device, vae.dtype))
        latents = encoded.latent_dist.mode() if isinstance(vae, AutoencoderKL) else encoded.latents
        return latents.float() * vae.config.scaling_factor

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "B L D"]:
        """Prompt embeddings as the pipeline itself makes them (too long a prompt is cut in the same way)."""
        embeddings, _ = self.pipeline.encode_prompt(list(prompts), self.device, 1, False)
        return embeddings.float()

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt before any cut, with the two special ones."""
        return len(self.pipeline.tokenizer(prompt, truncation=False, verbose=False).input_ids)

    def add_noise(
        self, latents: Float[Tensor, "N C h w"], noise: Float[Tensor, "N C h w"], timesteps: Int[Tensor, " N"]
    ) -> Float[Tensor, "N C h w"]:
        """x_t = α_t x_0 + σ_t ε."""
        return self.schedule.add_noise(latents, noise, timesteps)

    def target(
        self, latents: Float[Tensor, "N C h w"], noise: Float[Tensor, "N C h w"], timesteps: Int[Tensor, " N"]
    ) -> Float[Tensor, "N C h w"]:
        """What the U-Net is asked for: ε, v = α_t ε - σ_t x_0, or x_0."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "v_prediction":
            return self.schedule.get_velocity(latents, noise, timesteps)
        return latents

    def predict(
        self,
        unet: nn.Module,
        noisy: Float[Tensor, "N C h w"],
        timesteps: Int[Tensor, " N"],
        embeddings: Float[Tensor, "N L D"],
    ) -> Float[Tensor, "N C h w"]:
        """The U-Net's answer, in whatever it predicts."""
        return unet(noisy, timesteps, encoder_hidden_states=embeddings, return_dict=False)[0]


def load_stable_diffusion(base: str, *, device: torch.device) -> StableDiffusion:
    """Load a pipeline, in float32 and evaluation mode, from a local folder or a hub id.

    Raises BadInput for another family, a part that this family cannot use, and pickled weights.
    """
    folder = Path(base)
    if folder.exists():
        check_model_folder(folder)
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            base,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=folder.exists(),
            safety_checker=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError) as error:
        raise BadInput(f"the image model cannot be loaded: {error}", file=base) from error
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    family = StableDiffusion(pipeline, training_schedule(pipeline.scheduler, base=base))
    check_parts(pipeline, base=base)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False)
        part.eval()
    return family


def check_model_folder(folder: Path) -> None:
    """Refuse, before anything is loaded, a folder that is no supported pipeline or holds only pickles."""
    index = folder / "model_index.json"
    if folder.is_file() or not index.is_file():
        raise BadInput(f"not a diffusers folder: it has no model_index.json; {SUPPORTED}", file=folder)
    try:
        name = json.loads(index.read_text())["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"not a pipeline's index: {error!r}", file=index) from error
    if name != "StableDiffusionPipeline":
        raise BadInput(f"pipeline {name} is not supported; {SUPPORTED}", file=index, field="_class_name")
    for part in ("unet", "vae", "text_encoder"):
        if any((folder / part).glob("*.safetensors")):
            continue
        if pickles := pickled_weights(folder / part):
            message = "weights are a pickle, which can run code; only safetensors are read"
            raise BadInput(message, file=pickles[0])
        raise BadInput(f"{part} has no weights (*.safetensors)", file=folder / part)


def training_schedule(scheduler: object, *, base: str) -> DDPMScheduler:
    """The noise schedule that the pipeline's scheduler, of whatever sampler, was trained with."""
    config = dict(scheduler.config)  # type: ignore[attr-defined]
    name = type(scheduler).__name__
    if "beta_schedule" not in inspect.signature(type(scheduler).__init__).parameters:
        raise BadInput(
            f"scheduler {name} has no schedule of betas; {SUPPORTED}", file=base, field="scheduler"
        )
    if config.get("prediction_type", "epsilon") not in PREDICTIONS:
        known = ", ".join(PREDICTIONS)
        raise BadInput(
            f"{config['prediction_type']!r} is none of {known}", file=base, field="prediction_type"
        )
    known_keys = set(inspect.signature(DDPMScheduler.__init__).parameters)
    return DDPMScheduler(
        **{key: value for key, value in config.items() if key in known_keys - {"self", "kwargs"}}
    )


def check_parts(pipeline: StableDiffusionPipeline, *, base: str) -> None:
    """Refuse variants of the family that need inputs which this adapter does not give."""
    unet, vae = pipeline.unet, pipeline.vae
    check_tokenizer(pipeline.tokenizer, vocabulary=pipeline.text_encoder.config.vocab_size, base=base)
    if not isinstance(unet, UNet2DConditionModel):
        raise BadInput(f"unet {type(unet).__name__} is not supported; {SUPPORTED}", file=base, field="unet")
    if not isinstance(vae, AutoencoderKL | AutoencoderTiny):
        raise BadInput(f"vae {type(vae).__name__} is not supported; {SUPPORTED}", file=base, field="vae")
    if unet.config.in_channels != vae.config.latent_channels:
        message = f"takes {unet.config.in_channels} channels, the latents have {vae.config.latent_channels}"
        raise BadInput(f"{message} (inpainting and depth models are not supported)", file=base, field="unet")
    for key in ("class_embed_type", "num_class_embeds", "addition_embed_type", "time_cond_proj_dim"):
        if unet.config.get(key) is not None:
            raise BadInput(f"needs {key}={unet.config[key]}, which is not supported", file=base, field="unet")
    if vae.config.get("shift_factor"):
        raise BadInput("a shift_factor is not used by StableDiffusionPipeline", file=base, field="vae")
