"""The configuration of every method: frozen pydantic, no unknown keys, no torch.

The web forms are made from these classes' JSON schemas: every field has a title and a description, and the
three that matter most carry ``"primary": true``. Image methods have theirs in ``config_images.py``.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PairRule = Literal["each", "majority", "soft"]
TieRule = Literal["drop", "half"]

PRIMARY: dict[str, Any] = {"primary": True}


class Config(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LoraConfig(Config):
    """A low-rank adapter (arXiv:2106.09685): W + alpha / r · B A, with B starting at zero."""

    r: int = Field(16, ge=1, title="Rank", description="Rank of the adapter's matrices.")
    alpha: float = Field(32, gt=0, title="Alpha", description="The adapter's output is scaled by alpha / r.")
    target_modules: str | list[str] = Field(
        "all-linear",
        title="Target modules",
        description='Names of the layers that get an adapter; "all-linear" is all but the head.',
    )


class TrainConfig(Config):
    """Keys that all training methods share."""

    learning_rate: float = Field(
        1e-4,
        gt=0,
        title="Learning rate",
        description="Peak learning rate. With LoRA about ten times what full fine-tuning takes.",
        json_schema_extra=PRIMARY,
    )
    epochs: float = Field(
        1.0,
        gt=0,
        title="Epochs",
        description="How often the data is gone through.",
        json_schema_extra=PRIMARY,
    )
    max_steps: int | None = Field(
        None, ge=1, title="Steps", description="Train exactly this many optimizer steps; replaces epochs."
    )
    batch_size: int = Field(
        8, ge=1, title="Batch size", description="Groups per optimizer step, however they are split."
    )
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        title="Micro-batch size",
        description="Groups per forward pass; empty: as many as fit a fixed budget. Changes memory, not "
        "results.",
    )
    lora: LoraConfig | None = Field(
        LoraConfig(),
        title="LoRA",
        description="Train a low-rank adapter; null trains all weights.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        title="Precision",
        description="Arithmetic of the model. Log-probabilities, losses and trained weights are float32 in "
        "both.",
    )
    optimizer: Literal["adamw", "rmsprop", "adafactor", "sgd"] = Field(
        "adamw", title="Optimizer", description="AdamW suits nearly everything; Adafactor takes less memory."
    )
    scheduler: Literal["constant", "linear", "cosine"] = Field(
        "linear",
        title="Schedule",
        description="How the learning rate goes on after the warm-up: stays, or falls to zero.",
    )
    warmup: float = Field(
        0.1, ge=0, title="Warm-up", description="Below 1: share of all steps; from 1 on: number of steps."
    )
    weight_decay: float = Field(
        0.0, ge=0, title="Weight decay", description="Decoupled where the optimizer can."
    )
    max_grad_norm: float | None = Field(
        1.0, gt=0, title="Gradient clipping", description="Largest norm of the gradient; null: no limit."
    )
    log_every: int = Field(10, ge=1, title="Log every", description="Steps between logged means.")
    eval_every: int | None = Field(
        None, ge=1, title="Evaluate every", description="Steps between evaluations; empty: only at the end."
    )
    save_every: int = Field(200, ge=1, title="Save every", description="Steps between checkpoints.")
    gradient_checkpointing: bool = Field(
        False,
        title="Gradient checkpointing",
        description="Recompute activations in the backward pass: less memory, about a third more time.",
    )


class PairKeys(Config):
    """How judgements become pairs. Shared by all pair methods, text and image."""

    pairs: PairRule = Field(
        "each",
        title="Pairs",
        description="each: every judgement counts once. majority: one pair per two candidates, for the "
        "winner of "
        "the vote. soft: one pair per two candidates, its target the share of votes.",
    )
    ties: TieRule = Field(
        "drop",
        title="Ties",
        description="drop: a tie is left out. half: it counts as half a vote for each side.",
    )
    both_bad: TieRule = Field(
        "drop",
        title="Both bad",
        description="drop: left out. half: treated as a tie that counts half for each.",
    )
    strength: Literal["ignore", "weight"] = Field(
        "ignore",
        title="Strength",
        description="weight: a judgement of strength 1, 2 or 3 counts as that many votes. ignore: as one.",
    )


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

    @model_validator(mode="after")
    def _merging_needs_an_adapter(self) -> Self:
        if self.merged and self.lora is None:
            raise ValueError("merged needs lora: without an adapter the result is the whole model already")
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


class SFTConfig(TextTrainConfig, SampleKeys):
    """Supervised fine-tuning on answers. Ties: see ``ties``. Both bad: that judgement is left out."""

    learning_rate: float = Field(
        2e-4, gt=0, title="Learning rate", description="Peak learning rate.", json_schema_extra=PRIMARY
    )
    train_on: Literal["preferred", "all"] = Field(
        "preferred",
        title="Answers",
        description="preferred: corrections if there are any, else the answers that won the vote or got a "
        "thumb "
        "up; rows without judgements are demonstrations and always used. all: every answer.",
        json_schema_extra=PRIMARY,
    )
    ties: Literal["drop", "all"] = Field(
        "drop",
        title="Ties",
        description="When the vote is tied: drop leaves the group out, all trains on the tied.",
    )


class DPOConfig(TextTrainConfig, PairKeys, SampleKeys):
    """Direct preference optimisation. Ties and both-bad are left out unless the config says half."""

    learning_rate: float = Field(
        5e-5,
        gt=0,
        title="Learning rate",
        description="Peak learning rate. 5e-5 suits LoRA on models of billions of weights; small models take "
        "1e-3.",
        json_schema_extra=PRIMARY,
    )
    beta: float = Field(
        0.1,
        gt=0,
        title="Beta",
        description="Weight of the pull towards the reference: smaller moves further.",
        json_schema_extra=PRIMARY,
    )
    loss: Literal["sigmoid", "ipo", "hinge"] = Field(
        "sigmoid",
        title="Loss",
        description="sigmoid: DPO (arXiv:2305.18290). ipo: squared distance to 1 / (2 beta) "
        "(arXiv:2310.12036). "
        "hinge: SLiC (arXiv:2305.10425).",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        title="Label smoothing",
        description="Assumed share of flipped labels (conservative DPO); only with the sigmoid loss.",
    )
    reference: Literal["cached", "live"] = Field(
        "cached",
        title="Reference",
        description="cached: the reference's log-probabilities are computed once before training. live: at "
        "every "
        "step. Same values; cached is faster and, without LoRA, needs half the memory.",
    )

    @model_validator(mode="after")
    def _smoothing_has_a_use(self) -> Self:
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(f'label_smoothing works with the loss "sigmoid" only, not with "{self.loss}"')
        return self


class BestKeys(Config):
    """Which checkpoint becomes the result of a reward model."""

    keep_best: bool = Field(
        True,
        title="Keep the best",
        description="The result is the best evaluated checkpoint, not the last one.",
    )
    metric_for_best: Literal["eval/accuracy", "eval/loss", "eval/accuracy_majority"] = Field(
        "eval/accuracy", title="Best by", description="The evaluation value that decides."
    )


class RewardModelConfig(TextTrainConfig, PairKeys, BestKeys):
    """Bradley-Terry reward model. A tie counts half for each side; both-bad is left out."""

    ties: TieRule = Field(
        "half",
        title="Ties",
        description="half: a tie counts as half a vote for each side. drop: it is left out.",
        json_schema_extra=PRIMARY,
    )


class GenerateConfig(Config):
    """Answers to prompts. Takes no judgements, so ties and both-bad do not arise."""

    samples_per_prompt: int = Field(
        1, ge=1, title="Answers per prompt", description="Independent samples.", json_schema_extra=PRIMARY
    )
    temperature: float = Field(
        1.0, ge=0, title="Temperature", description="0 is greedy decoding.", json_schema_extra=PRIMARY
    )
    top_p: float = Field(
        1.0, gt=0, le=1, title="Top-p", description="Sample from the smallest set of tokens with this mass."
    )
    max_new_tokens: int = Field(
        256, ge=1, title="Longest answer", description="In tokens.", json_schema_extra=PRIMARY
    )
    batch_size: int = Field(
        16, ge=1, title="Batch size", description="Answers written at once. Samples do not depend on it."
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", title="Precision", description="Arithmetic of the model."
    )


class ScoreConfig(Config):
    """Scores of candidates by a reward model. Judgements are ignored, so ties and both-bad do not arise."""

    batch_size: int = Field(
        16, ge=1, title="Batch size", description="Groups scored at once.", json_schema_extra=PRIMARY
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", title="Precision", description="Arithmetic of the model."
    )
    max_length: int | None = Field(
        1024, ge=8, title="Longest sequence", description="Tokens; longer answers are cut at the end."
    )
