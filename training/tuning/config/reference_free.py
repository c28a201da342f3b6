"""Text methods on pairs that need no reference model."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.direct import NllKeys, refuse
from training.tuning.config.shared import PRIMARY, TextPairKeys
from training.tuning.config.text import ProcessKeys, SampleKeys, ShardKeys, TextTrainConfig

_RATE = "Peak learning rate. Without a reference small rates are safer: LoRA on large models"


class ORPOConfig(TextTrainConfig, ShardKeys, TextPairKeys, SampleKeys):
    """Imitation and odds ratio in one stage. Ties and both-bad are left out unless the config says half."""

    learning_rate: float = Field(
        5e-5, gt=0, title="Learning rate", description=f"{_RATE} takes 5e-5.", json_schema_extra=PRIMARY
    )
    beta: float = Field(
        0.1,
        ge=0,
        title="Beta",
        description="Weight of the odds ratio beside imitation (the paper's lambda).",
        json_schema_extra=PRIMARY,
    )


class SimPOConfig(TextTrainConfig, ShardKeys, TextPairKeys, NllKeys, SampleKeys):
    """SimPO: mean log-probability per token as reward. Ties and both-bad are left out unless the config says
    half.
    """

    learning_rate: float = Field(
        2e-5, gt=0, title="Learning rate", description=f"{_RATE} takes 2e-5.", json_schema_extra=PRIMARY
    )
    beta: float = Field(
        2.0,
        gt=0,
        title="Beta",
        description="Scale of the difference of mean log-probabilities; the paper takes 2 to 10.",
        json_schema_extra=PRIMARY,
    )
    loss: Literal["simpo", "alphapo"] = Field(
        "simpo",
        title="Loss",
        description="simpo: arXiv:2405.14734. alphapo: (1 - p^-alpha) / alpha in place of log p "
        "(arXiv:2501.03884).",
    )
    gamma: float = Field(
        1.0,
        ge=0,
        title="Gamma",
        description="The scaled difference that is asked for: half of beta in the paper.",
    )
    alpha: float = Field(0.25, title="Alpha", description="Shape of alphapo's reward; 0 is simpo.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, title="Label smoothing", description="Assumed share of flipped labels."
    )
    nll_weight: float = Field(
        0.0,
        ge=0,
        title="Weight of imitation",
        description="Times the mean negative log-likelihood per token of the chosen answer; 0: none.",
    )

    @model_validator(mode="after")
    def _alpha_has_a_use(self) -> Self:
        refuse(self.loss != "alphapo" and self.alpha != 0.25, 'alpha needs "loss": "alphapo"')
        return self


class CPOConfig(TextTrainConfig, ShardKeys, TextPairKeys, NllKeys, SampleKeys):
    """Contrastive preference optimisation. Ties and both-bad are left out unless the config says half."""

    learning_rate: float = Field(
        2e-5, gt=0, title="Learning rate", description=f"{_RATE} takes 2e-5.", json_schema_extra=PRIMARY
    )
    beta: float = Field(
        0.1,
        gt=0,
        title="Beta",
        description="Scale of the difference of the answers' log-probabilities.",
        json_schema_extra=PRIMARY,
    )
    loss: Literal["sigmoid", "hinge", "ipo"] = Field(
        "sigmoid",
        title="Loss",
        description="sigmoid: CPO (arXiv:2401.08417). hinge: SLiC-HF (arXiv:2305.10425), whose margin is 1 / "
        "beta. ipo: squared distance of the means per token to 1 / (2 beta).",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        title="Label smoothing",
        description="Assumed share of flipped labels; with the loss sigmoid.",
    )

    @model_validator(mode="after")
    def _smoothing_has_a_use(self) -> Self:
        refuse(
            self.label_smoothing and self.loss != "sigmoid",
            f'label_smoothing works with the loss "sigmoid" only, not with "{self.loss}"',
        )
        return self


class REDIConfig(TextTrainConfig, ProcessKeys, TextPairKeys, SampleKeys):
    """Imitation of the good and, more weakly, unlearning of the bad. Ties and both-bad are left out unless
    the config says half.
    """

    learning_rate: float = Field(
        1e-5,
        gt=0,
        title="Learning rate",
        description="Peak learning rate. The loss has no lower bound: keep it small (the paper takes "
        "1e-6 for "
        "all weights).",
        json_schema_extra=PRIMARY,
    )
    alpha: float = Field(
        0.8,
        ge=0,
        lt=1,
        title="Alpha",
        description="Weight of the rejected answer's log-probability; 0 is imitation of the chosen one.",
        json_schema_extra=PRIMARY,
    )
