"""Text reward models."""

from pydantic import Field

from training.tuning.config.shared import PRIMARY, BestKeys, PairKeys, TieRule
from training.tuning.config.text import TextTrainConfig


class RewardModelConfig(TextTrainConfig, PairKeys, BestKeys):
    """Bradley-Terry reward model. A tie counts half for each side; both-bad is left out."""

    ties: TieRule = Field(
        "half",
        title="Ties",
        description="half: a tie counts as half a vote for each side. drop: it is left out.",
        json_schema_extra=PRIMARY,
    )
