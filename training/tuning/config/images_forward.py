"""Image methods on rewards that learn on the forward process."""

from typing import Self

from pydantic import Field, NonNegativeInt, model_validator

from training.tuning.config.direct import refuse
from training.tuning.config.images_direct import TimestepKeys
from training.tuning.config.images_online import ImageOnlineConfig
from training.tuning.config.shared import PRIMARY


class ForwardConfig(ImageOnlineConfig, TimestepKeys):
    """Keys of image methods on rewards that noise finished pictures again."""

    updates: int = Field(
        1,
        ge=1,
        title="Updates per step",
        description="Each reads all pictures of the step, with noise and timesteps of its own.",
    )
    beta: float = Field(
        1.0,
        gt=0,
        title="Beta",
        description="Weight of the pull towards the old policy; smaller moves further in a step.",
        json_schema_extra=PRIMARY,
    )
    normalise: bool = Field(
        True,
        title="Errors by their size",
        description="Errors are those of the clean picture, each divided by its own mean size, as in the "
        "authors' code; off: plain squares.",
    )
    anchor: float = Field(
        1e-4,
        ge=0,
        title="Anchor",
        description="Weight of the squared distance from what the model predicted before training.",
    )
    advantage_clip: float = Field(
        5.0,
        gt=0,
        title="Clip of advantages",
        description="The advantage at which a picture is as good, or as bad, as can be.",
    )
    old_start: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Old policy kept",
        description="How much of the old policy stays after a step; 0 replaces it by the trained one.",
    )
    old_rate: float = Field(
        0.001, ge=0, title="… more every step", description="Added to it for every step after the delay."
    )
    old_delay: NonNegativeInt = Field(0, title="… after", description="Steps before it grows.")
    old_most: float = Field(0.5, ge=0, lt=1, title="… at most", description="Where it ends.")

    @model_validator(mode="after")
    def _old_is_a_range(self) -> Self:
        refuse(self.old_start > self.old_most, "old_start must not exceed old_most")
        return self


class DiffusionNFTConfig(ForwardConfig):
    """DiffusionNFT. Judgements are not used, so ties and both-bad do not arise."""


class MotionNFTConfig(ForwardConfig):
    """DiffusionNFT for editors of pictures. A row's two pictures are the one to edit, which was not
    preferred, and the edit, which was: ties and both-bad are dropped.
    """

    num_generations: int = Field(
        8, ge=2, title="Edits per picture", description="Made in each step, and compared with one another."
    )
    motion_weight: float = Field(
        1.0,
        ge=0,
        title="Weight of motion",
        description="Of the agreement of motion, from 0 to 1, beside the rewards of the list; 0.5 beside "
        "half of a vision-language model's score, as published.",
    )
    motion_levels: int | None = Field(
        5,
        ge=1,
        title="Levels of motion",
        description="The agreement is rounded to so many steps, so that what optical flow is unsure about "
        "decides nothing; null: it is not.",
    )
    most_mean: float = Field(
        0.9,
        title="Good enough",
        description="Pictures whose edits have this mean reward or more teach nothing in a step.",
    )
    least_std: float = Field(
        0.05,
        ge=0,
        title="Least spread",
        description="And so do those whose rewards have no larger standard deviation.",
    )


class CRDConfig(ForwardConfig):
    """Centred reward distillation. Judgements are not used, so ties and both-bad do not arise."""

    num_generations: int = Field(
        8,
        ge=2,
        title="Pictures per prompt",
        description="Drawn by the policy in each step, and compared with one another.",
    )
    anchor: float = Field(
        0.1,
        ge=1e-4,
        title="Anchor",
        description="Weight of the squared distance from what the model predicted before training; that of "
        "the worst pictures is 1e-4.",
    )
    anchor_guidance: float = Field(
        4.5,
        ge=1,
        title="Guidance of the anchor",
        description="Guidance of the model before training where it is the anchor, so that the trained one "
        "learns it; 1: none.",
    )
    old_start: float = Field(
        0.25,
        ge=0,
        lt=1,
        title="Old policy kept",
        description="How much of the old policy stays after a step; 0 replaces it by the trained one.",
    )
    old_rate: float = Field(
        0.005, ge=0, title="… more every step", description="Added to it for every step after the delay."
    )
    old_most: float = Field(0.999, ge=0, lt=1, title="… at most", description="Where it ends.")
    drawing_rate: float = Field(
        0.0075,
        ge=0,
        title="Drawing policy kept",
        description="The policy that draws is the trained one until the next key's step; from then on this "
        "much more of it stays after every step.",
    )
    drawing_delay: NonNegativeInt = Field(
        75, title="… after", description="Steps for which the trained policy draws itself."
    )
