"""Text models: loading, adapters, the frozen start as reference, and reading group batches.

Arithmetic: with ``fp32`` everything is float32. With ``bf16`` and an adapter, frozen weights are bfloat16,
the adapter's float32 and multiplied in bfloat16 (``fused_lora.py``). With ``bf16`` and full fine-tuning,
weights stay float32 and the forward pass runs under autocast.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from training.tuning.config import LoraConfig
from training.tuning.errors import BadInput
from training.tuning.text.batches import GroupBatch
from training.tuning.text.logprobs import (
    chosen_logprobs,
    likeliest_tokens,
    per_candidate,
    token_logprobs,
)
from training.tuning.text.pictures import Picture, vision_inputs

Kind = Literal["causal", "reward"]
Frozen = Callable[[], AbstractContextManager[Any]]

# Encoders whose classification head we can read: from the first tokens' states (N, H) to outputs (N, T).
ENCODER_HEADS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "bert": lambda model, first: model.classifier(_pooled(model.bert.pooler, first)),
    "roberta": lambda model, first: model.classifier(first[:, None]),
    "xlm-roberta": lambda model, first: model.classifier(first[:, None]),
    "electra": lambda model, first: model.classifier(first[:, None]),
    "distilbert": lambda model, first: model.classifier(torch.relu(model.pre_classifier(first))),
}


def _pooled(pooler: Any, first: Tensor) -> Tensor:
    """BERT's pooler belongs to the body and computes in its precision; what it gives is float32."""
    pooled: Tensor = pooler(first[:, None].to(pooler.dense.weight.dtype))
    return pooled.to(torch.promote_types(pooled.dtype, torch.float32))


# Layers that see earlier tokens through attention alone, so that a prefix can be shared.
SHAREABLE_LAYERS = {"full_attention", "sliding_attention"}


@dataclass
class TextModel:
    """A loaded model, what it trains, and how it reads groups.

    ``model`` is a transformers model or a PeftModel around one. ``layout`` is ``shared`` (the prefix once),
    ``separate`` (one block per candidate in one row: encoders) or ``alone`` (one row per candidate: models
    with recurrent layers). ``fresh`` says that switching the adapter off gives the start. ``members`` names
    the adapters of an ensemble of reward models. ``server`` writes the model's answers, if there is one.
    ``processor`` is that of a model which reads pictures. ``whole`` is there if the weights are divided among
    processes: see ``sharding.py``.
    """

    model: Any
    tokenizer: Any
    base: str
    layout: Literal["shared", "separate", "alone"]
    dtype: torch.dtype
    autocast: bool
    fresh: bool
    members: tuple[str, ...] = ()
    server: Any = None
    processor: Any = None
    whole: Any = None

    @property
    def inner(self) -> Any:
        """The transformers model itself."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def position_offset(self) -> int:
        """RoBERTa and its kin number positions from the padding index on."""
        config = self.inner.config
        return int(config.pad_token_id) + 1 if config.model_type in ("roberta", "xlm-roberta") else 0

    @property
    def end_ids(self) -> list[int]:
        """Tokens that end an answer, the tokenizer's first."""
        return end_ids(self.tokenizer, getattr(self.inner, "generation_config", None))

    def states(self, batch: GroupBatch, *, at: Int[Tensor, " R"] | None = None) -> Float[Tensor, "R H"]:
        """The last hidden states at the tokens ``at``, or of all; what nobody reads is not computed.

        Raises BadInput if a layer ignored the layout.
        """
        states: Tensor = self.inside(lambda: self._states(batch, None if at is None else at.unique()))
        return states if at is None else states.index_select(0, at)

    def inside(self, work: Callable[[], Any]) -> Any:
        """What ``work`` gives, which uses the model: with divided weights, on all processes at once."""
        return work() if self.whole is None else self.whole(work)

    def divide(self) -> None:
        """Put divided weights back into parts: reading leaves those that come first and last whole."""
        if self.whole is not None:
            self.whole.divide()

    def _states(self, batch: GroupBatch, read: Tensor | None) -> Tensor:
        backbone = self.inner.base_model
        types = {} if batch.token_type_ids is None else {"token_type_ids": batch.token_type_ids}
        with self._arithmetic():
            if self.layout == "alone":
                rows = batch.input_ids.split(
                    [size for part in batch.layout.segments for size in part.blocks], dim=1
                )
                return torch.cat(
                    [backbone(input_ids=row, use_cache=False).last_hidden_state[0] for row in rows]
                )
            layout = replace(batch.layout, calls=0, read=read)
            output = backbone(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                layout=layout,
                **types,
                **self.vision_inputs(batch.pictures),
            )
        layers = self.inner.config.get_text_config().num_hidden_layers
        if layout.calls != layers:
            raise BadInput(
                f"{type(self.inner).__name__} used our attention in {layout.calls} of {layers} layers; "
                "this architecture is not supported",
                file=self.base,
            )
        states: Tensor = output.last_hidden_state[0]
        return states

    def vision_inputs(self, pictures: Sequence[Picture]) -> dict[str, Tensor]:
        """What the model is given for pictures, in the precision of its weights."""
        dtype = self.inner.get_input_embeddings().weight.dtype
        return vision_inputs(pictures, device=self.device, dtype=dtype)

    @property
    def lm_head(self) -> Any:
        """The layer from states to logits of the vocabulary."""
        return self.inner.get_output_embeddings()

    def answer_states(self, batch: GroupBatch) -> Float[Tensor, "C H"]:
        """The states that predict the answers' tokens."""
        return self.states(batch, at=batch.predict_at)

    def token_logprobs(
        self,
        batch: GroupBatch,
        states: Float[Tensor, "C H"] | None = None,
        *,
        temperature: float = 1.0,
    ) -> Float[Tensor, " C"]:
        """Log-probability of every answer token, in float32; from ``answer_states`` if they are at hand."""
        states = self.answer_states(batch) if states is None else states
        states, bias = self._tempered(states, temperature)
        return token_logprobs(states, self.lm_head.weight, bias, batch.targets, dtype=self.dtype)

    def logprobs_of(
        self, states: Float[Tensor, "C H"], columns: Int[Tensor, "C K"], *, temperature: float = 1.0
    ) -> Float[Tensor, "C K"]:
        """Log-probabilities of the tokens ``columns`` after each state; of all logits, a chunk at a time."""
        states, bias = self._tempered(states, temperature)
        return chosen_logprobs(states, self.lm_head.weight, bias, columns, dtype=self.dtype)

    def likeliest(self, states: Float[Tensor, "C H"], *, count: int) -> Int[Tensor, "C K"]:
        """The ``count`` likeliest tokens after each state, most likely first."""
        head = self.lm_head
        return likeliest_tokens(states, head.weight, head.bias, count=count, dtype=self.dtype)

    def _tempered(self, states: Tensor, temperature: float) -> tuple[Tensor, Tensor | None]:
        """States and bias whose logits are divided by the temperature."""
        bias = self.lm_head.bias
        if temperature == 1.0:
            return states, bias
        return states / temperature, None if bias is None else bias / temperature

    def logprobs(self, batch: GroupBatch) -> Float[Tensor, " N"]:
        """Log-probability of every candidate's answer given the prompt: summed, in float32."""
        return per_candidate(self.token_logprobs(batch), batch.counts)

    def reads(self, batch: GroupBatch) -> Float[Tensor, "N H"]:
        """The state that a reward model's head reads: each candidate's last token's, an encoder's first.

        In float32, as the head's weights are.
        """
        encoder = self.inner.config.model_type in ENCODER_HEADS
        read = self.states(batch, at=batch.first if encoder else batch.last)
        return read.to(torch.promote_types(read.dtype, torch.float32))

    def score_head(self, read: Float[Tensor, "N H"]) -> Float[Tensor, "N T"]:
        """A reward model's outputs for states that ``reads`` gave."""
        head = ENCODER_HEADS.get(self.inner.config.model_type)
        outputs: Tensor = self.inner.score(read) if head is None else head(self.inner, read)
        return outputs

    def outputs(self, batch: GroupBatch) -> Float[Tensor, "N T"]:
        """All outputs of a reward model, in float32; with ``members`` those of every adapter side by side."""
        if not self.members:
            return self.score_head(self.reads(batch))
        return torch.cat([self._of_member(name, batch) for name in self.members], dim=1)

    def scores(self, batch: GroupBatch) -> Float[Tensor, " N"]:
        """The first output of a reward model, in float32."""
        return self.outputs(batch)[:, 0]

    def _of_member(self, name: str, batch: GroupBatch) -> Tensor:
        kept = [value for value in self.model.parameters() if value.requires_grad]
        self.model.set_adapter(name, inference_mode=not kept)
        for value in kept:  # peft freezes the adapters that are not active
            value.requires_grad_(True)
        return self.score_head(self.reads(batch))

    def frozen_start(self, start: dict[str, Tensor] | None = None) -> Frozen:
        """What, used as a ``with`` block, turns the model into what it is now: the reference of preference
        losses.

        A fresh adapter is switched off; anything else that is trained is copied now and put back in the
        block. Given ``start`` (from ``copy_trained``), that is put in instead.
        """
        if self.fresh and start is None:
            disabled: Frozen = self.model.disable_adapter
            return disabled
        if self.whole is not None:  # read before the first step alone: the model is its own start
            return contextlib.nullcontext
        values = self.copy_trained() if start is None else start
        return lambda: self._swapped(values)

    def copy_trained(self) -> dict[str, Tensor]:
        """A copy of the weights that are trained."""
        return {name: value.detach().clone() for name, value in self._trained()}

    @torch.no_grad()
    def mix_trained(self, into: dict[str, Tensor], *, share: float) -> None:
        """Move such a copy, in place, by ``share`` of the way to the weights as they are now."""
        for name, value in self._trained():
            into[name].lerp_(value, share)

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, value) for name, value in self.model.named_parameters() if value.requires_grad)

    @contextlib.contextmanager
    def _swapped(self, start: dict[str, Tensor]) -> Iterator[None]:
        now = {name: value.data for name, value in self._trained()}
        for name, value in self._trained():
            value.data = start[name]
        try:
            yield
        finally:
            for name, value in self._trained():
                value.data = now[name]

    @contextlib.contextmanager
    def _arithmetic(self) -> Iterator[None]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            yield


def end_ids(tokenizer: Any, generation_config: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's, then those that generation stops at."""
    more = getattr(generation_config, "eos_token_id", None)
    found = [tokenizer.eos_token_id, *(more if isinstance(more, list) else [more])]
    unique = list(dict.fromkeys(token for token in found if token is not None))
    if not unique:
        raise BadInput("the tokenizer has no end token (eos_token)", file=tokenizer.name_or_path)
    return unique


def context_of(config: Any, max_length: int | None) -> int:
    """The most tokens of one sequence: the config's limit and the model's, whichever is smaller."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and config.model_type in ("roberta", "xlm-roberta"):
        limit -= config.pad_token_id + 1
    found = [length for length in (max_length, limit) if length]
    if not found:
        raise BadInput("the model states no context length; set max_length", field="config.max_length")
    return min(found)


def layout_of(config: Any) -> Literal["shared", "separate", "alone"]:
    """How a model with this config reads groups. BadInput for what is neither decoder nor encoder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if reads_pictures(config):
        if _rotates_in_space(config):
            raise BadInput(
                f"models of type {config.model_type} number a picture's tokens by row and column (M-RoPE), "
                "which group batches do not; use a vision-language model of LLaVA's kind",
                field="base",
            )
        if layout_of(config.get_text_config()) != "shared":
            raise BadInput(
                f"vision-language models of type {config.model_type} are not supported: their language part "
                "does more than attend to numbered positions",
                field="base",
            )
        return "shared"
    if config.model_type in ENCODER_HEADS:
        return "separate"
    if config.is_encoder_decoder or config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        known = ", ".join(ENCODER_HEADS)
        raise BadInput(
            f"models of type {config.model_type} are not supported; causal language models are, and as "
            "reward "
            f"models these encoders: {known}",
            field="base",
        )
    kinds = set(getattr(config, "layer_types", None) or [])
    return "shared" if kinds <= SHAREABLE_LAYERS and not _recurrent(config) else "alone"


def reads_pictures(config: Any) -> bool:
    """Whether a model has a vision part."""
    return hasattr(config, "vision_config") and hasattr(config, "text_config")


def _rotates_in_space(config: Any) -> bool:
    """True of models whose positions have height and width (Qwen2-VL and its kin)."""
    rope = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return "mrope_section" in rope


def _recurrent(config: Any) -> bool:
    """True of models whose layers carry a state from token to token."""
    from transformers import AutoModelForCausalLM

    return bool(getattr(AutoModelForCausalLM._model_mapping[type(config)], "_is_stateful", False))


# The parts of vision-language models that read pictures; adapters leave them as they are.
VISION = r".*(vision_tower|vision_model|visual|multi_modal_projector|embed_vision|connector).*"


def attach_lora(model: Any, lora: LoraConfig, *, kind: Kind, members: Sequence[str] = ()) -> Any:
    """A PeftModel around ``model`` with a fresh adapter (and a trained head for reward models).

    With ``members``, an adapter and a head of each of these names.
    """
    import peft

    task = {"causal": peft.TaskType.CAUSAL_LM, "reward": peft.TaskType.SEQ_CLS}[kind]
    settings = peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        target_modules=lora.target_modules,
        lora_dropout=0.0,
        task_type=task,
        exclude_modules=VISION if reads_pictures(model.config) else None,
        fan_in_fan_out=model.config.model_type == "gpt2",
    )
    try:
        wrapped = peft.get_peft_model(model, settings, adapter_name=members[0] if members else "default")
        for name in members[1:]:
            wrapped.add_adapter(name, settings)
        _tell_members_apart(wrapped, members)
    except ValueError as error:
        raise BadInput(str(error), field="config.lora.target_modules") from None
    head = wrapped.get_base_model().get_output_embeddings() if kind == "causal" else None
    if head is not None and type(head) is not nn.Linear:
        raise BadInput("the output head cannot have an adapter", field="config.lora.target_modules")
    return wrapped


def _tell_members_apart(model: Any, members: Sequence[str]) -> None:
    """Train all adapters, each with its own head: peft starts them with copies, one of them trainable."""
    for name, value in model.named_parameters():
        if any(f".{member}." in name for member in members):
            value.requires_grad_(True)
            if not HEAD.isdisjoint(name.split(".")) and value.ndim > 1 and "lora_" not in name:
                spread = model.get_base_model().config.get_text_config().initializer_range
                nn.init.normal_(value, std=spread)


# What a reward model puts on a language model or encoder; always float32.
HEAD = {"score", "classifier", "pre_classifier"}


def keep_head_precise(model: nn.Module) -> None:
    """Turn the weights of a reward model's head to float32: bfloat16 scores would tie."""
    for name, module in model.named_modules():
        if not HEAD.isdisjoint(name.split(".")):
            module.float()


def without_dropout(model: nn.Module) -> None:
    """Set every dropout to zero: policy and reference must compute the same function."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout_prob", "attn_pdrop"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
