"""What differs between image models, behind one small interface: a class for each family."""

import abc
import inspect
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import cpu_offload_with_hook
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from training.tuning.errors import BadInput
from training.tuning.images.bases import check_tokenizer, generation_config
from training.tuning.images.families.noise import Noise, noise_of

NOWHERE_TO_GO = ("cpu",)  # devices whose memory is the CPU's

# What a denoiser is told about prompts, by name; the first dimension of each tensor counts prompts.
Conditioning = dict[str, Tensor]


class Family(abc.ABC):
    """A loaded pipeline, frozen, in float32.

    Latents are in the scale that the denoiser sees. What the scheduler's and the parts' configs say decides,
    not the pipeline's name.
    """

    pipeline_class: ClassVar[str]
    denoiser_name: ClassVar[str]  # the pipeline's part that is trained: "unet" or "transformer"
    text_encoders: ClassVar[tuple[str, ...]]
    autoencoders: ClassVar[tuple[Any, ...]] = (AutoencoderKL, AutoencoderTiny)
    edits: ClassVar[bool] = False  # whether the denoiser is shown a picture to change
    sampling_options: ClassVar[dict[str, Any]] = {}  # what else its pipeline is called with

    def __init__(self, pipeline: Any, *, base: str, supported: str) -> None:
        self.pipeline = pipeline
        self.base = base
        self.person: Tensor | None = None  # (D,): for whom a model for people draws
        self._visitors: list[Any] = []  # the hooks of parts that come to the device when they are called
        self.noise: Noise = noise_of(pipeline.scheduler, base=base, supported=supported)
        self._check_vae(base, supported)
        for name in self.text_encoders:
            if (encoder := getattr(pipeline, name)) is not None:
                tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"))
                check_tokenizer(tokenizer, vocabulary=encoder.config.vocab_size, base=base)
        self.check(base=base, supported=supported)
        for part in (self.denoiser, pipeline.vae, *self.encoders):
            part.requires_grad_(False)
            part.eval()

    @abc.abstractmethod
    def check(self, *, base: str, supported: str) -> None:
        """BadInput for variants that need inputs which this family does not give."""

    @property
    def denoiser(self) -> Any:
        """The part that is trained."""
        return getattr(self.pipeline, self.denoiser_name)

    @property
    def encoders(self) -> list[nn.Module]:
        """The text encoders that the pipeline has."""
        found = [getattr(self.pipeline, name) for name in self.text_encoders]
        return [encoder for encoder in found if encoder is not None]

    @property
    def device(self) -> torch.device:
        """Where the denoiser is; other parts come there when they are called."""
        found: torch.device = self.denoiser.device
        return found

    def rest(self) -> None:
        """Have the text encoders and the autoencoder leave the device until each is called again.

        To be called once they have done their work for a while, outside of a backward pass. On a CPU there is
        nowhere to go.
        """
        if self.device.type in NOWHERE_TO_GO:
            return
        if not self._visitors:
            parts = (*self.encoders, self.pipeline.vae)
            self._visitors = [cpu_offload_with_hook(part, self.device)[1] for part in parts]
        for visitor in self._visitors:
            visitor.offload()

    @property
    def train_timesteps(self) -> int:
        """How many timesteps the training schedule has; 0 is the least noisy."""
        return self.noise.timesteps

    @property
    def time_span(self) -> float:
        """The timestep that the denoiser is called with at pure noise."""
        return float(self.train_timesteps)

    @property
    @abc.abstractmethod
    def pixel_multiple(self) -> int:
        """Height and width must be multiples of this."""

    @property
    def native_size(self) -> tuple[int, int]:
        """Height and width that the model draws by itself, in pixels."""
        size, factor = self.denoiser.config.sample_size, self.pipeline.vae_scale_factor
        height, width = (size, size) if isinstance(size, int) else size
        return height * factor, width * factor

    @cached_property
    def sampling_defaults(self) -> dict[str, Any]:
        """How it is sampled unless a run says otherwise: its ``generation_config.json`` over diffusers' own
        values.
        """
        defaults = {
            key: call_default(self.pipeline, key) for key in ("num_inference_steps", "guidance_scale")
        }
        return defaults | {"height": None, "width": None} | generation_config(self.base)

    @torch.no_grad()
    def encode_images(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Latents of pictures in -1..1; of a distribution (AutoencoderKL) its mode."""
        vae = self.pipeline.vae
        encoded = vae.encode(pixels.to(self.device, vae.dtype))
        if isinstance(vae, AutoencoderKL):
            latents = encoded.latent_dist.mode()
        else:
            latents = encoded.latent if isinstance(vae, AutoencoderDC) else encoded.latents
        return (latents.float() - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor

    def decode_latents(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Pictures in -1..1 as the pipeline shows them: what lies beyond is cut off. Has a gradient."""
        vae = self.pipeline.vae
        unscaled = latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
        return vae.decode(unscaled.to(vae.dtype), return_dict=False)[0].float().clamp(-1, 1)

    @property
    def reads_guidance(self) -> bool:
        """Whether guidance is an input of the denoiser (``conditioning["guidance"]``), or was distilled
        into it: then there is no second pass without prompt.
        """
        return False

    def sampling_sigmas(self, steps: int) -> list[float] | None:
        """The σ of a flow before any shift, as the pipeline gives them to its scheduler; None: the
        scheduler's own.
        """
        return None

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of a picture of this size in pixels."""
        factor = int(self.pipeline.vae_scale_factor)
        return int(self.pipeline.vae.config.latent_channels), height // factor, width // factor

    @abc.abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts as the pipeline itself encodes them (too long a prompt is cut in the same way), float32."""

    @abc.abstractmethod
    def predict(
        self,
        denoiser: nn.Module,
        noisy: Float[Tensor, "N C h w"],
        timesteps: Real[Tensor, " N"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "N C h w"]:
        """The denoiser's answer, in whatever it predicts. ``conditioning`` has N rows.

        Whole ``timesteps`` are of the training schedule; floats are times as the denoiser reads them.
        """

    @abc.abstractmethod
    def save_adapter(
        self, folder: Path, layers: dict[str, Tensor], metadata: dict[str, Any], *, file: str
    ) -> None:
        """Write LoRA layers, so that ``how_to_load_adapter`` is true."""

    def save_for_interfaces(self, folder: Path, layers: dict[str, Tensor], *, alpha: float) -> None:
        """Write them once more as ``interfaces.py`` says. BadInput where diffusers reads no such file."""
        raise BadInput(
            "no file for interfaces: their layout is known for Stable Diffusion, SDXL and FLUX alone; give "
            f"tools that draw with {self.pipeline_class} pytorch_lora_weights.safetensors",
            file=folder,
        )

    def load_adapter(self, file: Path, *, name: str) -> None:
        """Put saved LoRA layers on the denoiser."""
        self.pipeline.load_lora_weights(
            file.parent,
            weight_name=file.name,
            adapter_name=name,
            local_files_only=True,
            use_safetensors=True,
        )

    @property
    def how_to_load_adapter(self) -> str:
        """For the model card: the Python that puts a saved adapter on the base."""
        return HOW_TO_LOAD_ADAPTER.replace("(BASE)", f"(BASE{self._left_out})")

    @property
    def _left_out(self) -> str:
        """Arguments that leave out the parts which the base does not have, and diffusers does not expect."""
        parts, optional = self.pipeline.components, type(self.pipeline)._optional_components
        missing = [name for name, part in parts.items() if part is None and name not in optional]
        return "".join(f", {name}=None" for name in missing)

    @property
    def reader(self) -> tuple[Any, int]:
        """The tokenizer of the text encoder that reads the longest prompts, and how many tokens it reads."""
        return self.pipeline.tokenizer, int(self.pipeline.tokenizer.model_max_length)

    def count_tokens(self, prompt: str) -> int:
        """Tokens of a prompt before any cut, with the special ones, as the ``reader`` counts."""
        return len(self.reader[0](prompt, truncation=False, verbose=False).input_ids)

    def add_noise(
        self, latents: Float[Tensor, "N C h w"], noise: Float[Tensor, "N C h w"], timesteps: Int[Tensor, " N"]
    ) -> Float[Tensor, "N C h w"]:
        """x_t."""
        return self.noise.add_noise(latents, noise, timesteps)

    def target(
        self, latents: Float[Tensor, "N C h w"], noise: Float[Tensor, "N C h w"], timesteps: Int[Tensor, " N"]
    ) -> Float[Tensor, "N C h w"]:
        """What the denoiser is asked for."""
        return self.noise.target(latents, noise, timesteps)

    def _check_vae(self, base: str, supported: str) -> None:
        vae: Any = self.pipeline.vae
        if not isinstance(vae, self.autoencoders):
            raise BadInput(f"vae {type(vae).__name__} is not supported; {supported}", file=base, field="vae")
        if vae.config.get("latents_mean") is not None:
            raise BadInput("latents_mean is not supported", file=base, field="vae")


def call_default(pipeline: Any, name: str) -> Any:
    """What a pipeline's call takes for an argument that is left out."""
    return inspect.signature(type(pipeline).__call__).parameters[name].default


HOW_TO_LOAD_ADAPTER = """
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(BASE)  # the base model named above
pipeline.load_lora_weights("result", weight_name="pytorch_lora_weights.safetensors")
"""
