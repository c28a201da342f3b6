"""The denoiser (a U-Net or a transformer) that is trained, and the way from it to its reference."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model_state_dict
from torch import Tensor, nn

from training.tuning.config import LoraConfig
from training.tuning.errors import BadInput
from training.tuning.fused_lora import fuse_adapters
from training.tuning.images.bases import LORA_FILE
from training.tuning.images.families import Family
from training.tuning.images.interfaces import INTERFACE_FILE

POLICY, REFERENCE = "policy", "reference"


class ImagePolicy:
    """What is trained of a pipeline's denoiser: an adapter, or all of it.

    The reference is

    - adapters off, for a fresh adapter;
    - the adapter as it was, for one that is trained on;
    - the weights as they were, for full fine-tuning, if a copy was kept. Without it there is no way back once
      training began, and the reference's errors must be computed before.
    """

    def __init__(self, family: Family, *, adapter: bool, keep_copy: bool = False) -> None:
        self.family = family
        self.denoiser = family.denoiser
        self.adapter = adapter
        fuse_adapters(self.denoiser)
        self.parts: int | None = None  # of an adapter in parts
        self._start = self.copy_trained() if keep_copy else None

    @property
    def has_live_reference(self) -> bool:
        """Whether ``as_reference`` works at any time."""
        return self.adapter or self._start is not None

    @contextmanager
    def as_reference(self) -> Iterator[nn.Module]:
        """The module that computes the reference. Afterwards, also after an exception, the policy is back."""
        if self._start is not None:
            with self.as_trained(self._start) as denoiser:
                yield denoiser
            return
        if not self.adapter:
            raise RuntimeError("full fine-tuning without a copy has no live reference")
        frozen = REFERENCE in self.denoiser.peft_config
        try:
            if frozen:
                self.denoiser.set_adapter(REFERENCE)
            else:
                self.denoiser.disable_adapters()
            yield self.denoiser
        finally:
            if frozen:
                self.denoiser.set_adapter(POLICY)
            else:
                self.denoiser.enable_adapters()

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The weights that are trained, by name."""
        return {name: value for name, value in self.denoiser.named_parameters() if value.requires_grad}

    def copy_trained(self) -> dict[str, Tensor]:
        """A copy of the weights that are trained: a moving reference, an earlier policy."""
        return {name: value.detach().clone() for name, value in self.trained.items()}

    @torch.no_grad()
    def mix_trained(self, into: dict[str, Tensor], *, share: float) -> None:
        """Move such a copy, in place, by ``share`` of the way to the weights as they are now."""
        for name, value in self.trained.items():
            into[name].lerp_(value, share)

    @contextmanager
    def as_trained(self, values: dict[str, Tensor]) -> Iterator[nn.Module]:
        """The denoiser with such a copy as its weights. Afterwards, also after an exception, the policy is
        back.

        To read with, not to train: gradients would go to the policy's own weights.
        """
        trained = self.trained
        now = {name: value.data for name, value in trained.items()}
        try:
            for name, value in trained.items():
                value.data = values[name]
            yield self.denoiser
        finally:
            for name, value in trained.items():
                value.data = now[name]

    def save(self, folder: Path) -> None:
        """Write what diffusers loads: LoRA weights for ``load_lora_weights``, or the whole pipeline."""
        if not self.adapter:
            self.family.pipeline.save_pretrained(folder, safe_serialization=True)
            return
        config = self.denoiser.peft_config[POLICY]
        self.family.save_adapter(folder, self._layers(), _adapter_metadata(config), file=LORA_FILE)

    def save_for_interfaces(self, folder: Path) -> str:
        """Write the adapter once more in the layout of common interfaces, if there is one for this model.
        Returns a sentence that says so, or why not.
        """
        if self.parts is not None:
            return "No file for other interfaces: they know no parts that count at some timesteps only."
        alpha = float(self.denoiser.peft_config[POLICY].lora_alpha)
        try:
            self.family.save_for_interfaces(folder, self._layers(), alpha=alpha)
        except BadInput as reason:
            return f"{reason.message[:1].upper()}{reason.message[1:]}."
        return f"For ComfyUI, A1111 and other interfaces: `{INTERFACE_FILE}`."

    def _layers(self) -> dict[str, Tensor]:
        layers = get_peft_model_state_dict(self.denoiser, adapter_name=POLICY)
        return {name: value.detach().cpu().contiguous() for name, value in layers.items()}


def train_fresh_adapter(family: Family, lora: LoraConfig, *, seed: int) -> ImagePolicy:
    """A new LoRA adapter on the denoiser: A random from ``seed``, B zero, so that it changes nothing yet."""
    targets = lora.target_modules
    if targets == "all-linear":
        targets = [name for name, module in family.denoiser.named_modules() if isinstance(module, nn.Linear)]
    config = PeftLoraConfig(r=lora.r, lora_alpha=lora.alpha, target_modules=targets)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            family.denoiser.add_adapter(config, adapter_name=POLICY)
    except ValueError as error:
        raise BadInput(str(error), field="config.lora.target_modules") from error
    return ImagePolicy(family, adapter=True)


def train_saved_adapter(family: Family, file: Path) -> ImagePolicy:
    """Train the adapter in ``file`` on; as it is now, it is its own reference."""
    for name in (REFERENCE, POLICY):
        load_adapter(family, file, name=name)
    family.denoiser.set_adapter(POLICY)
    for name, weight in family.denoiser.named_parameters():
        weight.requires_grad_(f".{POLICY}." in name)
    return ImagePolicy(family, adapter=True)


def train_all_weights(family: Family, *, keep_copy: bool) -> ImagePolicy:
    """Full fine-tuning of the denoiser; the autoencoder and the text encoders stay as they are."""
    family.denoiser.requires_grad_(True)
    return ImagePolicy(family, adapter=False, keep_copy=keep_copy)


def load_adapter(family: Family, file: Path, *, name: str = POLICY) -> None:
    """Put saved LoRA weights, in float32, on the pipeline, frozen."""
    family.load_adapter(file, name=name)
    fuse_adapters(family.denoiser)
    for weight_name, weight in family.denoiser.named_parameters():
        if f".{name}." in weight_name:
            weight.data = weight.data.float()
            weight.requires_grad_(False)


def _adapter_metadata(config: PeftLoraConfig) -> dict[str, object]:
    """The adapter's settings for the header of its file: without them a loader takes alpha for r."""
    settings = config.to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
