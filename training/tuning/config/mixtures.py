"""Text methods that are DPO with more answers or opinions."""

from typing import Self

from pydantic import Field, model_validator

from training.tuning.config.direct import DPOConfig, ReferenceKeys, refuse
from training.tuning.config.shared import PRIMARY, PairRule, TextPairKeys, VoteKeys
from training.tuning.config.text import ProcessKeys, SampleKeys, TextTrainConfig
from training.tuning.config.unpaired import ScoreKeys

_SMALL_BETA = Field(
    0.01,
    gt=0,
    title="Beta",
    description="Weight of the pull towards the reference: smaller moves further.",
    json_schema_extra=PRIMARY,
)


class WRPOConfig(TextTrainConfig, ProcessKeys, ScoreKeys, ReferenceKeys, SampleKeys):
    """Weighted-reward preference optimisation on answers of several models. Answers are ordered by their
    ratings; equal ones (ties, both-bad) keep the order of the data.
    """

    beta: float = _SMALL_BETA
    own_source: str = Field(
        "policy",
        min_length=1,
        title="The model's own source",
        description="The `source` of candidates that the model itself wrote; all others come from models to "
        "learn from.",
    )
    rating: str | None = Field(
        None,
        title="Rating",
        description="The attribute that counts, such as helpfulness; empty: the mean of all.",
    )
    final_alpha: float = Field(
        0.1,
        ge=0,
        le=1,
        title="Final share",
        description="Share of the other models' best answer in the chosen side; it rises to this from 0.",
    )


class VRPOConfig(TextTrainConfig, ProcessKeys, VoteKeys, ReferenceKeys, SampleKeys):
    """DPO with less variance: people's choices, and a judge's opinions of these pairs and of others. A tie
    counts half for each side, and so does both-bad.
    """

    @model_validator(mode="after")
    def _judges_are_heard(self) -> Self:
        refuse(self.judges != "vote", "vrpo compares people with judges: leave judges out")
        return self


class SELMConfig(TextTrainConfig, ProcessKeys, TextPairKeys, ReferenceKeys, SampleKeys):
    """DPO with optimism. Ties and both-bad are left out unless the config says half."""

    beta: float = _SMALL_BETA
    alpha: float = Field(
        0.001,
        ge=0,
        title="Optimism",
        description="How strongly the model's own greedy answer is pushed down: 0.001 to 0.0001; 0 is DPO.",
    )
    own_source: str = Field(
        "policy",
        min_length=1,
        title="The model's own source",
        description="The `source` of the candidate that the model wrote greedily at the start of the round; "
        "groups without it have no bonus.",
    )


class GoalDPOConfig(DPOConfig, ScoreKeys):
    """DPO towards a goal that the prompt names. Ties and both-bad are left out unless the config says
    otherwise.
    """

    rating: str | None = Field(
        None,
        title="Rating",
        description="The attribute that is the goal, such as helpfulness; empty: the mean of all.",
    )
    beta: float = _SMALL_BETA
    goal_text: str = Field(
        "Answer so that the rating of your answer, from 1 to 10, is {goal}.",
        pattern=r"\{goal\}",
        title="Goal",
        description="The system prompt that names the goal; {goal} stands for the number. For use after "
        "training "
        "ask for 10.",
    )

    pairs: PairRule = Field(
        "majority",
        title="Pairs",
        description="majority, and nothing else: one pair per two candidates, for the winner of the vote.",
    )

    @model_validator(mode="after")
    def _new_rows_have_one_choice(self) -> Self:
        refuse(self.pairs != "majority", 'goal_dpo needs "pairs": "majority"')
        refuse(
            self.row_weights or self.looks_at_a_part or (self.ties, self.both_bad) != ("drop", "drop"),
            "goal_dpo makes new rows of clear pairs: it goes without row_weights, aspect, rating_margin, "
            "turns, ties and both_bad",
        )
        return self
