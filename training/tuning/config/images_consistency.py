"""Distilling an image model into one of few steps, with a reward."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.images_online import ImageOnlineConfig
from training.tuning.config.shared import PRIMARY


class RGLCDConfig(ImageOnlineConfig):
    """Reward-guided latent consistency distillation. Of judgements only the preferred picture is used: ties
    and both-bad are dropped.
    """

    learning_rate: float = Field(
        1e-5,
        gt=0,
        title="Learning rate",
        description="Peak learning rate; an adapter takes 1e-4, small models 1e-3.",
        json_schema_extra=PRIMARY,
    )
    num_generations: int = Field(
        1,
        ge=1,
        title="Noises per prompt",
        description="At which its preferred picture is learnt in each step.",
    )
    beta: float = Field(
        1.0, ge=0, title="Beta", description="Weight of the reward.", json_schema_extra=PRIMARY
    )
    through: Literal["proxy", "pixels"] = Field(
        "proxy",
        title="Gradient through",
        description="proxy: a small reward model of latents, which learns the rewards' rankings meanwhile "
        "and keeps their flaws out; for any reward. pixels: the decoded picture and the rewards themselves.",
    )
    latent_reward_learning_rate: float = Field(
        1e-4, gt=0, title="Learning rate of the proxy", description="Of the reward model of latents."
    )
    solver_steps: int = Field(
        50, ge=2, title="Solver steps", description="The original model's steps, of which one is jumped over."
    )
    guidance_low: float = Field(
        5.0, ge=0, title="Least guidance", description="Of the original model; drawn for each picture."
    )
    guidance_high: float = Field(15.0, ge=0, title="Most guidance", description="The other end.")
    distance: Literal["huber", "l2"] = Field(
        "huber", title="Distance", description="Between the pictures seen from two neighbouring steps."
    )
    huber: float = Field(
        0.001,
        gt=0,
        title="Huber",
        description="Errors below this count as squares, larger ones by their size.",
    )
    target_kept: float = Field(
        0.95,
        ge=0,
        lt=1,
        title="Target kept",
        description="How much of the moving average stays after a step.",
    )

    @model_validator(mode="after")
    def _keys_have_a_use(self) -> Self:
        if self.guidance_low > self.guidance_high:
            raise ValueError("guidance_low must not be above guidance_high")
        if self.through == "pixels" and self.is_changed("latent_reward_learning_rate"):
            raise ValueError("latent_reward_learning_rate has no use through pixels")
        if self.distance == "l2" and self.is_changed("huber"):
            raise ValueError("huber has no use with the distance l2")
        return self
