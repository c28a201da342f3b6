"""Text methods that hold the policy token by token."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.direct import TokenKeys, refuse
from training.tuning.config.shared import PRIMARY, TextPairKeys
from training.tuning.config.text import ProcessKeys, SampleKeys, TextTrainConfig


class TDPOConfig(TextTrainConfig, ProcessKeys, TextPairKeys, TokenKeys, SampleKeys):
    """Token-level DPO. The reference reads every batch beside the policy. Ties and both-bad are left out
    unless the config says half.
    """

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
    loss: Literal["tdpo2", "tdpo1", "sparse", "rrpo"] = Field(
        "tdpo2",
        title="Loss",
        description="tdpo2, tdpo1: the divergence of both answers, token by token, inside the sigmoid "
        "(arXiv:2404.11999). sparse: the same with masks of tokens that are learnt (SparsePO, "
        "arXiv:2410.05102). rrpo: beside DPO the divergence of the chosen answer (arXiv:2504.12083); meant "
        "for focus: edits.",
    )
    alpha: float = Field(
        0.5,
        ge=0,
        title="Alpha",
        description="Weight of the divergence in tdpo2 and rrpo; tdpo1 and sparse have 1.",
    )
    mask_penalty: float = Field(
        0.001,
        ge=0,
        title="Mask penalty",
        description="With the loss sparse: weight of the mean absolute value of the masks.",
    )

    @model_validator(mode="after")
    def _keys_have_a_use(self) -> Self:
        refuse(self.alpha != 0.5 and self.loss in ("tdpo1", "sparse"), f'alpha has no place in "{self.loss}"')
        refuse(self.mask_penalty != 0.001 and self.loss != "sparse", 'mask_penalty needs "loss": "sparse"')
        refuse(
            self.loss == "sparse" and (self.focus != "all" or self.ld_alpha is not None),
            'the loss "sparse" learns which tokens count: it goes without focus and ld_alpha',
        )
        return self
