"""Learning from a teacher's distributions."""

from pydantic import Field

from training.tuning.config.online import SamplingConfig
from training.tuning.config.shared import PRIMARY
from training.tuning.config.text import ProcessKeys


class DistillationConfig(SamplingConfig, ProcessKeys):
    """On-policy distillation: the teacher is the one model of the reward list. Ties and both-bad: the rows'
    answers, if they are used, are chosen as by sft.
    """

    learning_rate: float = Field(
        1e-4, gt=0, title="Learning rate", description="Peak learning rate.", json_schema_extra=PRIMARY
    )
    interpolation: float = Field(
        0.5,
        ge=0,
        le=1,
        title="Interpolation",
        description="Of the generalised Jensen-Shannon divergence. 0: forward KL, which covers all that the "
        "teacher says. 1: reverse KL, which keeps to what it says most.",
        json_schema_extra=PRIMARY,
    )
    on_policy: float = Field(
        1.0,
        ge=0,
        le=1,
        title="Share of own answers",
        description="Of the steps that learn on answers which the student writes; the others take the "
        "rows' answers.",
    )
