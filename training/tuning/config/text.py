"""Keys that all text methods share."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.shared import Config, TrainConfig


class TextTrainConfig(TrainConfig):
    """Keys that all text training methods share."""

    max_length: int | None = Field(
        1024,
        ge=8,
        title="Longest sequence",
        description="Tokens of prompt and answer together. Longer answers are cut at the same place for all "
        "candidates of a prompt; a prompt that leaves no room is dropped and counted. Null: the model's "
        "context.",
    )
    merged: bool = Field(
        False,
        title="Merged weights",
        description="Also write the adapter merged into its base, as result/merged/.",
    )

    quantization: Literal["nf4", "int8"] | None = Field(
        None,
        title="Quantization",
        description="Hold the frozen base in 4 bits (nf4: QLoRA, arXiv:2305.14314) or 8 (int8: "
        "arXiv:2208.07339) under the adapter, with the extra quantization. Null: as it is.",
    )

    compile: bool = Field(
        False,
        title="Compile",
        description="Let norms and feed-forward parts be one kernel each: steps are a little faster after a "
        "start that takes up to a minute longer. Pays in long runs; needs a C compiler on the worker.",
    )

    @model_validator(mode="after")
    def _compiling_has_a_use(self) -> Self:
        if self.compile and self.quantization:
            raise ValueError("compile does not go with quantization, which has kernels of its own")
        return self

    @model_validator(mode="after")
    def _quantization_needs_an_adapter(self) -> Self:
        if self.quantization and self.lora is None:
            raise ValueError("quantization needs lora: quantized weights cannot be trained")
        if self.quantization and self.merged:
            raise ValueError(
                "merged does not go with quantization; merge the adapter into the whole base later"
            )
        return self

    @model_validator(mode="after")
    def _merging_needs_an_adapter(self) -> Self:
        if self.merged and self.lora is None:
            raise ValueError("merged needs lora: without an adapter the result is the whole model already")
        return self


class ProcessKeys(Config):
    """Training on several devices of one machine."""

    processes: int = Field(
        1,
        ge=1,
        le=64,
        title="Devices",
        description="One process for each, on one machine. They divide the micro-batches of every step; the "
        "losses are those of one process.",
    )


class GenerationKeys(Config):
    """Where answers are written."""

    generation: Literal["local", "server"] = Field(
        "local",
        title="Where answers are written",
        description="local: by the model itself, in the trainer's process. server: by the generation server "
        "that the trainer's environment names (such as vLLM), which gets the adapter whenever it changed.",
    )


class ShardKeys(ProcessKeys):
    """Models that do not fit into one device."""

    sharded: bool = Field(
        False,
        title="Divide the weights",
        description="Each device keeps a part of the weights and gathers layer after layer while it computes "
        "(FSDP): less memory on each, more traffic between them.",
    )

    @model_validator(mode="after")
    def _sharding_has_a_use(self) -> Self:
        if not self.sharded:
            return self
        if self.processes == 1:
            raise ValueError("sharded needs processes: there is nobody to divide the weights with")
        if getattr(self, "quantization", None):
            raise ValueError("sharded does not go with quantization")
        if getattr(self, "compile", False):
            raise ValueError("compile does not go with sharded")
        if getattr(self, "merged", False):
            raise ValueError("sharded does not go with merged; merge the adapter into the whole base later")
        if getattr(self, "lora", None) is None and getattr(self, "reference", "cached") == "live":
            raise ValueError('sharded full fine-tuning needs "reference": "cached"')
        if getattr(self, "sync_reference_every", None):
            raise ValueError("sharded does not go with a reference that moves")
        return self


class SampleKeys(Config):
    """Answers written before and after training at fixed prompts and seeds (samples.jsonl)."""

    samples: int = Field(
        4, ge=0, title="Samples", description="Prompts that are answered before and after training; 0: none."
    )
    sample_max_new_tokens: int = Field(
        128, ge=1, title="Sample length", description="Most tokens of such an answer."
    )
    sample_temperature: float = Field(
        0.7, ge=0, title="Sample temperature", description="0 is greedy decoding."
    )
