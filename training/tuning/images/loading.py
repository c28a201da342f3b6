"""From a run's base and config to models on a device."""

import torch

from training.tuning.config import LoraConfig
from training.tuning.errors import BadInput
from training.tuning.images.bases import resolve_base
from training.tuning.images.families import Family, load_family
from training.tuning.images.parts import AdapterParts
from training.tuning.images.policies import (
    POLICY,
    ImagePolicy,
    load_adapter,
    train_all_weights,
    train_fresh_adapter,
    train_saved_adapter,
)


def load_for_sampling(base: str | None, *, device: torch.device, edits: bool = False) -> Family:
    """The pipeline behind ``base``, with its adapter if it names one, ready to draw, or to edit."""
    found = resolve_base(base)
    family = load_family(found.pipeline, device=device, edits=edits)
    if found.adapter is not None:
        load_adapter(family, found.adapter)
    if found.parts is not None:
        AdapterParts(family, count=found.parts, name=POLICY)
    return family


def load_for_training(
    base: str | None,
    *,
    lora: LoraConfig | None,
    keep_copy: bool,
    seed: int,
    device: torch.device,
    parts: int | None = None,
    edits: bool = False,
) -> ImagePolicy:
    """The policy behind ``base``: a fresh adapter, the adapter that ``base`` names, or all weights.

    An adapter keeps its own layers; a rank or alpha in ``lora`` that it does not have is an error, and so are
    other ``parts``.
    """
    found = resolve_base(base)
    if found.person is not None:
        problem = "a model for people is drawn with, or gets more people; it is not trained on"
        raise BadInput(problem, file=base, field="base")
    if found.adapter is not None and found.parts != parts:
        has = "an adapter without parts" if found.parts is None else f"an adapter in {found.parts} parts"
        raise BadInput(f"{has}: short_ft trains on what has as many parts as it", file=base, field="base")
    family = load_family(found.pipeline, device=device, edits=edits)
    if lora is None:
        if found.adapter is not None:
            message = "full fine-tuning cannot start from an adapter; set lora, and it is trained on"
            raise BadInput(message, file=base, field="config.lora")
        return train_all_weights(family, keep_copy=keep_copy)
    if found.adapter is not None:
        policy = train_saved_adapter(family, found.adapter)
        check_adapter(policy, lora, base=base)
    else:
        policy = train_fresh_adapter(family, lora, seed=seed)
    policy.parts = parts
    return policy


def check_adapter(policy: ImagePolicy, lora: LoraConfig, *, base: str | None) -> None:
    """BadInput if the config asks for another rank or alpha than the adapter has."""
    config = policy.denoiser.peft_config[POLICY]
    if (config.r, config.lora_alpha) != (lora.r, lora.alpha):
        message = (
            f"the adapter has r = {config.r} and alpha = {config.lora_alpha:g}, which stay; set the same"
        )
        raise BadInput(message, file=base, field="config.lora")
