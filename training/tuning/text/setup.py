"""What every text method starts with: a tokenizer for groups, and a policy that has been checked."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from training.tuning.run import Run
from training.tuning.text.loading import (
    load_config,
    load_for_training,
    load_processor,
    load_tokenizer,
    model_folder,
    padding_token,
    require_base,
)
from training.tuning.text.models import Kind, TextModel, context_of, end_ids, layout_of
from training.tuning.text.pictures import PictureReader
from training.tuning.text.probe import check_reading
from training.tuning.text.tokens import GroupTokenizer, PairTokenizer, how_joined

logger = logging.getLogger("training.tuning")

# Tokens of a forward pass, unless micro_batch_size says how many groups: enough to keep a device busy.
TOKEN_BUDGET = 4096


def training_budget(device: torch.device, *, encoder: bool = False) -> int:
    """Tokens of a pass with gradients.

    A CPU's caches hold the activations of a thousand, which makes them faster, and four times as many take
    up memory that nobody has to spare. Encoders get more: most of their weights are embeddings, and each
    pass adds up the gradients of all.
    """
    return TOKEN_BUDGET if encoder or device.type != "cpu" else TOKEN_BUDGET // 4


def open_policy(run: Run, *, kind: Kind, outputs: int = 1, members: Sequence[str] = ()) -> TextModel:
    """Load what ``run`` trains, and refuse a model that reads groups wrongly.

    ``outputs`` and ``members`` are a reward model's: see ``load_for_training``.
    """
    config = run.config
    policy = load_for_training(
        run.base,
        kind=kind,
        lora=config.lora,
        lora_was_set="lora" in config.model_fields_set,
        precision=config.precision,
        device=run.device,
        gradient_checkpointing=config.gradient_checkpointing,
        outputs=outputs,
        members=members,
        quantization=config.quantization,
    )
    if config.compile:
        from training.tuning.text.compiling import compile_parts

        logger.info("%d parts are compiled", compile_parts(policy.inner, run.device))
    check_reading(policy, kind=kind)
    if getattr(config, "generation", "local") == "server":
        from training.tuning.text.server import open_server

        policy.server = open_server(run.dir.path)
    if getattr(config, "sharded", False):
        from training.tuning.text.sharding import shard

        policy.whole = shard(policy.model, policy.inner)
    trained = sum(value.numel() for value in policy.model.parameters() if value.requires_grad)
    logger.info("%s: %s weights are trained; layout %s", policy.base, f"{trained:,}", policy.layout)
    logger.info(how_joined(policy.tokenizer, pair=policy.layout == "separate"))
    return policy


def open_tokenizer(base: str | None, *, kind: Kind, max_length: int | None) -> GroupTokenizer | PairTokenizer:
    """The tokenizer for groups that a base gets, from its config alone: no weights are read."""
    base = require_base(base)
    tokenizer, config = load_tokenizer(base), load_config(base)
    context = context_of(config, max_length)
    layout, processor = layout_of(config), load_processor(base)
    if layout == "separate":
        return PairTokenizer(tokenizer, context=context)
    return GroupTokenizer(
        tokenizer,
        context=context,
        end_ids=end_ids(tokenizer, _generation_config(base)),
        with_end=kind == "causal" or padding_token(tokenizer) != tokenizer.eos_token,
        share=layout == "shared",
        reader=PictureReader(processor) if processor is not None else None,
    )


def open_group_tokenizer(base: str | None, *, max_length: int | None) -> GroupTokenizer:
    """The same for methods that write text, which an encoder cannot."""
    found = open_tokenizer(base, kind="causal", max_length=max_length)
    if isinstance(found, PairTokenizer):
        from training.tuning.errors import BadInput

        raise BadInput("an encoder writes no text; use a causal language model", file=base)
    return found


def _generation_config(base: str) -> Any:
    try:
        return GenerationConfig.from_pretrained(model_folder(base))
    except OSError:  # it has none
        return None
