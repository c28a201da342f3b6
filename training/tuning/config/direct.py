"""Text methods that tune on people's answers directly."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.shared import PRIMARY, PairKeys
from training.tuning.config.text import SampleKeys, TextTrainConfig


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
