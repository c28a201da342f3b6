"""An online image method whose reward is trained against the policy."""

from typing import Literal

from pydantic import Field

from training.tuning.config.images_online import FlowGRPOConfig
from training.tuning.config.shared import PRIMARY


class AdvGRPOConfig(FlowGRPOConfig):
    """Flow-GRPO against an adversary. Of judgements only the preferred picture is used: ties and both-bad are
    dropped.
    """

    beta: float = Field(
        0.0,
        ge=0,
        title="Beta",
        description="Weight of the KL divergence from the start, step by step; 0 as in the paper.",
        json_schema_extra=PRIMARY,
    )
    adversary: Literal["pairs", "hinge"] = Field(
        "pairs",
        title="Adversary",
        description="How the list's first entry, an image reward model, learns to put liked pictures above "
        "drawn ones. pairs: Bradley-Terry. hinge: the liked above 1, the drawn below -1.",
    )
    adversary_learning_rate: float = Field(
        1e-5, gt=0, title="Learning rate of the adversary", description="Of that reward model."
    )
    policy_every: int = Field(
        1,
        ge=1,
        title="Policy every",
        description="The policy learns in every so-manieth step, the adversary in all; 10 in the authors' "
        "code.",
    )
