"""Text methods on single answers with a label or a score."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.direct import ReferenceKeys, refuse
from training.tuning.config.shared import PRIMARY, AspectKeys, TurnKeys, VoteKeys
from training.tuning.config.text import ProcessKeys, SampleKeys, TextTrainConfig


class KTOConfig(TextTrainConfig, ProcessKeys, VoteKeys, TurnKeys, ReferenceKeys, SampleKeys):
    """Kahneman-Tversky optimisation of single answers. Of two, the chosen is good and the other bad. Ties are
    left out; both-bad makes all candidates bad.
    """

    loss: Literal["kto", "apo_zero_unpaired"] = Field(
        "kto",
        title="Loss",
        description="kto: arXiv:2402.01306, against the mean drift on answers to other prompts. "
        "apo_zero_unpaired: against no drift (arXiv:2408.06266).",
    )
    desirable_weight: float = Field(
        1.0, gt=0, title="Weight of good answers", description="Lambda of the paper; see the next."
    )
    undesirable_weight: float = Field(
        1.0,
        gt=0,
        title="Weight of bad answers",
        description="Choose the weights so that weight times number is about equal for good and bad, or "
        "up to "
        "a third more for the good.",
    )


class ScoreKeys(VoteKeys):
    """Scores from ratings."""

    rating: str | None = Field(
        None,
        title="Rating",
        description="The attribute that counts, such as helpfulness; empty: the mean of all.",
        json_schema_extra=PRIMARY,
    )
    rating_low: float = Field(1.0, title="Lowest rating", description="The rating that is the score 0.")
    rating_high: float = Field(5.0, title="Highest rating", description="The rating that is the score 1.")

    @model_validator(mode="after")
    def _ratings_are_a_range(self) -> Self:
        refuse(self.rating_low >= self.rating_high, "rating_low must be below rating_high")
        return self


class UFTConfig(TextTrainConfig, ProcessKeys, ScoreKeys, AspectKeys, ReferenceKeys, SampleKeys):
    """One stage of demonstrations, ratings, thumbs and choices. A tie is left out; both-bad scores 0."""

    beta: float = Field(
        0.01,
        gt=0,
        title="Beta",
        description="Weight of the pull towards the reference: smaller moves further.",
    )


class CoPGConfig(TextTrainConfig, ProcessKeys, ScoreKeys, ReferenceKeys, SampleKeys):
    """Contrastive policy gradient on rated answers. Equal scores (ties, both-bad) hold answers together."""

    beta: float = Field(
        0.1,
        gt=0,
        title="Beta",
        description="Weight of the pull towards the reference: the optimum is proportional to the reference "
        "times exp(score / beta).",
    )
