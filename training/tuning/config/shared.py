"""Keys that methods share, for text and images.

The web forms are made from these classes' JSON schemas: every field has a title and a description, and the
three that matter most carry ``"primary": true``.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, model_validator

PairRule = Literal["each", "majority", "soft"]
TieRule = Literal["drop", "half"]
# With a probability of their own: for methods whose loss has a place for it.
TieModel = Literal["drop", "half", "rao_kupper", "davidson"]

PRIMARY: dict[str, Any] = {"primary": True}


class Config(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def is_changed(self, name: str) -> bool:
        """Whether a key differs from its default: what is asked for, and must have a use."""
        return getattr(self, name) != type(self).model_fields[name].default


class LoraConfig(Config):
    """A low-rank adapter (arXiv:2106.09685): W + alpha / r · B A, with B starting at zero."""

    r: int = Field(16, ge=1, title="Rank", description="Rank of the adapter's matrices.")
    alpha: float = Field(32, gt=0, title="Alpha", description="The adapter's output is scaled by alpha / r.")
    target_modules: str | list[str] = Field(
        "all-linear",
        title="Target modules",
        description='Names of the layers that get an adapter; "all-linear" is all but the head.',
    )


class EarlyStopConfig(Config):
    """When to end before the last step. The result then has the best evaluated weights."""

    metric: str = Field("eval/loss", title="Metric", description="The evaluation value that decides.")
    patience: int = Field(
        3, ge=1, title="Patience", description="Evaluations in a row without a better value before it stops."
    )
    min_delta: float = Field(
        0.0, ge=0, title="Smallest gain", description="By how much a value must be better to count."
    )
    direction: Literal["lower", "higher"] = Field(
        "lower", title="Better is", description="A loss is better when lower, an accuracy when higher."
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
    early_stop: EarlyStopConfig | None = Field(
        None,
        title="Stop early",
        description="End when evaluations no longer improve, and keep the best weights; null: train all "
        "steps. Needs held-out data and eval_every.",
    )
    save_every: int = Field(200, ge=1, title="Save every", description="Steps between checkpoints.")
    report_to: list[Literal["tensorboard", "mlflow", "wandb"]] = Field(
        [],
        title="Report to",
        description="Trackers that get the metrics too; each is an extra of its name. Where they keep them, "
        "their own environment variables say on the worker.",
    )
    gradient_checkpointing: bool = Field(
        False,
        title="Gradient checkpointing",
        description="Recompute activations in the backward pass: less memory, about a third more time.",
    )

    @model_validator(mode="after")
    def _early_stop_needs_evaluations(self) -> Self:
        if self.early_stop is not None and self.eval_every is None:
            raise ValueError("early_stop needs eval_every: it looks at evaluations on the way")
        return self


class VoteKeys(Config):
    """How much each judgement counts."""

    annotator_weights: dict[str, NonNegativeFloat] = Field(
        {},
        title="Annotators' weights",
        description="How much each annotator's judgements count, such as 0.5; who is not named counts 1, "
        "and 0 leaves somebody out.",
    )
    row_weights: bool = Field(
        False,
        title="Weights in the data",
        description="Each judgement counts as much as its row's meta.weights says, one number per judgement.",
    )
    judges: Literal["vote", "fill"] = Field(
        "vote",
        title="Judges",
        description="What models say. vote: it counts as a person's judgement does. fill: only where no "
        "person has said anything (arXiv:2410.19133).",
    )


class AspectKeys(Config):
    """Choices in one aspect."""

    aspect: str | None = Field(
        None,
        title="Aspect",
        description="Learn from the choices in this aspect, such as helpfulness, and from no others. Empty: "
        "from choices and rankings as a whole.",
    )


class ViewKeys(AspectKeys):
    """Which part of the judgements is learnt from."""

    rating_margin: float | None = Field(
        None,
        ge=0,
        title="Margin of ratings",
        description="Learn from ratings, and from nothing else: an answer is preferred to one that the same "
        "person rated lower by more than this. Empty: ratings prefer nothing.",
    )
    margin_rating: str | None = Field(
        None,
        title="Rating of the margin",
        description="The rating that the margin is about, such as helpfulness; empty: the mean of all.",
    )

    @property
    def looks_at_a_part(self) -> bool:
        return self._parts > 0

    @property
    def _parts(self) -> int:
        asked = (self.aspect is not None, self.rating_margin is not None, getattr(self, "turns", False))
        return sum(asked)

    @model_validator(mode="after")
    def _one_part(self) -> Self:
        if self._parts > 1:
            raise ValueError("aspect, rating_margin and turns are different parts of the judgements: use one")
        if self.margin_rating is not None and self.rating_margin is None:
            raise ValueError("margin_rating needs a rating_margin; 0 prefers whatever is rated higher")
        return self


class TurnKeys(ViewKeys):
    """The same for text, where chats are judged turn by turn."""

    turns: bool = Field(
        False,
        title="Turn by turn",
        description="Learn from the choices at each turn of a chat, and from nothing else: what was said "
        "before the turn is the prompt. Answers after different words are not compared.",
    )


class PairKeys(VoteKeys, ViewKeys):
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


class TextPairKeys(PairKeys, TurnKeys):
    """How judgements of texts become pairs."""


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

    @model_validator(mode="after")
    def _one_rule_for_the_best(self) -> Self:
        if getattr(self, "early_stop", None) and (not self.keep_best or self.is_changed("metric_for_best")):
            raise ValueError(
                "early_stop keeps the best weights by its own metric; leave keep_best and metric_for_best out"
            )
        return self
