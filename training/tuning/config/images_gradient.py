"""Image methods that follow the gradient of a reward."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.images_online import ImageOnlineConfig
from training.tuning.config.shared import PRIMARY


class ImageGradientConfig(ImageOnlineConfig):
    """Keys of all image methods on rewards with a gradient. Judgements are not used, so ties and both-bad do
    not arise.
    """

    num_generations: int = Field(
        1,
        ge=1,
        title="Pictures per prompt",
        description="Drawn by the policy in each step.",
        json_schema_extra=PRIMARY,
    )
    guidance_gradient: bool = Field(
        True,
        title="Both branches learn",
        description="With guidance the gradient also passes through the prediction without prompt; off, that "
        "one is a constant.",
    )


class DraftConfig(ImageGradientConfig):
    """Gradients through the sampler. Judgements are not used, so ties and both-bad do not arise."""

    last_steps: int | None = Field(
        1,
        ge=1,
        title="Last steps",
        description="How many of the last denoising steps the gradient passes through; null: all.",
    )
    last_steps_by: Literal["fixed", "uniform", "normal"] = Field(
        "fixed",
        title="Last steps by",
        description="fixed: DRaFT-K (arXiv:2309.17400). uniform: any number from 1 to that many, drawn for "
        "each step of training. normal: around 0.16 of all steps, as AlignProp does (arXiv:2310.03739).",
    )
    redraws: int = Field(
        0,
        ge=0,
        title="Redraws",
        description="DRaFT-LV: noise each picture again to the last step so many times, and take the mean "
        "gradient of that step; 0: not.",
    )
    eta: float = Field(
        0.0, ge=0, le=1, title="Eta", description="Chance in the denoising steps; AlignProp takes 1."
    )

    @model_validator(mode="after")
    def _redraws_are_of_the_last_step(self) -> Self:
        if self.redraws and (self.last_steps != 1 or self.last_steps_by != "fixed"):
            raise ValueError("redraws are of the last step alone: last_steps 1, fixed")
        if self.last_steps_by == "normal" and self.is_changed("last_steps"):
            raise ValueError("last_steps has no use where it is drawn around a share of all steps")
        return self


class ReFLConfig(ImageGradientConfig):
    """One denoising step with a gradient. Of judgements only the preferred picture is used, where it starts
    from pictures: ties and both-bad are dropped.
    """

    earliest: float = Field(
        0.75,
        ge=0,
        lt=1,
        title="Earliest",
        description="The step with a gradient is drawn after this share of the steps: 30 of 40.",
    )
    goal: float | None = Field(
        None,
        title="Goal",
        description="Pictures with this reward or more teach nothing; 2 as published, for ImageReward. "
        "Null: there is no such thing.",
    )
    start: Literal["noise", "pictures"] = Field(
        "noise",
        title="Start",
        description="pictures: denoise the data's own preferred pictures instead, noised to the step of "
        "earliest (ImageReFL).",
    )
    picture_weight: float = Field(
        0.01,
        ge=0,
        title="Weight of pictures",
        description="With pictures: weight of the denoising error on them, which keeps diversity.",
    )
    plain_every: int | None = Field(
        None,
        ge=2,
        title="Plain every",
        description="With pictures: every so many steps start from noise all the same; empty: none.",
    )
    uncertainty: bool = Field(
        False,
        title="Uncertainty",
        description="With pictures and a goal: what two neighbouring steps disagree about counts less "
        "(Ctrl-U, arXiv:2410.11236).",
    )

    @model_validator(mode="after")
    def _keys_have_a_use(self) -> Self:
        for key in ("picture_weight", "plain_every", "uncertainty"):
            if self.is_changed(key) and self.start != "pictures":
                raise ValueError(f'{key} has a use only with the start "pictures"')
        if self.uncertainty and self.goal is None:
            raise ValueError("uncertainty weighs what is missing to a goal: set one")
        return self


class SRPOConfig(ImageGradientConfig):
    """Relative rewards at any noise level. Judgements are not used, so ties and both-bad do not arise."""

    wanted: str | None = Field(
        None,
        min_length=1,
        title="Wanted words",
        description="Put before the prompt when the reward is asked for what shall be, as in realistic.",
    )
    unwanted: str | None = Field(
        None,
        min_length=1,
        title="Unwanted words",
        description="Put before the prompt when it is asked for what shall not be. Both empty: the plain "
        "reward.",
    )
    strength: float = Field(
        0.1,
        ge=0,
        title="Strength",
        description="How much more the wanted words count; grows linearly to the last step.",
    )
    strength_end: float = Field(0.25, ge=0, title="Strength at the end", description="At the last step.")
    goal: float | None = Field(
        None,
        title="Goal",
        description="Pictures with this relative reward or more teach nothing; 0.7 as published. Null: none.",
    )
    inversion: bool = Field(
        True,
        title="Inversion",
        description="Every other step goes towards noise, with wanted and unwanted words exchanged.",
    )
    most_noise: float = Field(
        0.99, gt=0, le=1, title="Most noise", description="Levels with more noise than this are not trained."
    )

    @model_validator(mode="after")
    def _words_come_in_twos(self) -> Self:
        if bool(self.wanted) != bool(self.unwanted):
            raise ValueError("wanted and unwanted words come together")
        for key in ("strength", "strength_end", "inversion"):
            if self.is_changed(key) and not self.wanted:
                raise ValueError(f"{key} has a use only with wanted and unwanted words")
        return self


class AdjointMatchingConfig(ImageGradientConfig):
    """Reward fine-tuning as control. Judgements are not used, so ties and both-bad do not arise."""

    strength: float = Field(
        100.0,
        gt=0,
        title="Strength",
        description="The tuned model draws what the base draws, times exp(strength · reward).",
        json_schema_extra=PRIMARY,
    )
    num_generations: int = Field(1, ge=1, title="Pictures per prompt", description="Drawn in each step.")
    steps_trained: int | None = Field(
        None,
        ge=1,
        title="Steps trained",
        description="So many of a picture's denoising steps, drawn at random, are trained; empty: all.",
    )
    noise: float = Field(
        1.0,
        gt=0,
        le=1,
        title="Noise",
        description="Of the denoising steps. 1 is the memoryless schedule, the only one without bias.",
    )
    drop_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        title="Share dropped",
        description="The largest losses are left out: those above a running quantile.",
    )


class VARDConfig(ImageGradientConfig):
    """Gradients of a learned value. Judgements are not used, so ties and both-bad do not arise."""

    pull: float = Field(
        1.0,
        ge=0,
        title="Pull",
        description="Weight of the squared distance of the predictions to the base's.",
        json_schema_extra=PRIMARY,
    )
    num_generations: int = Field(4, ge=1, title="Pictures per prompt", description="Drawn in each step.")
    eta: float = Field(1.0, gt=0, le=1, title="Eta", description="Chance in the denoising steps.")
    value_learning_rate: float = Field(
        1e-3, gt=0, title="Learning rate of the value", description="Of the network that predicts rewards."
    )
    value_warmup: int = Field(
        10, ge=0, title="Warm-up of the value", description="Steps in which only the value learns."
    )
    value_updates: int = Field(
        4, ge=1, title="Updates of the value", description="In each step, on the pictures' own chains."
    )
    steps_trained: int | None = Field(
        None,
        ge=1,
        title="Steps trained",
        description="So many of a picture's denoising steps, drawn at random, are trained; empty: all.",
    )


class ShortFTConfig(ImageGradientConfig):
    """Gradients through a chain made short. Judgements are not used, so ties and both-bad do not arise."""

    num_generations: int = Field(1, ge=1, title="Pictures per prompt", description="Drawn in each step.")
    parts: int = Field(
        4,
        ge=1,
        le=16,
        title="Parts",
        description="Stretches of the noise levels. Each has LoRA weights of its own, of the rank given, and "
        "is jumped over but for its last step.",
        json_schema_extra=PRIMARY,
    )
    shortcut: Literal["self", "model"] = Field(
        "self",
        title="Jumps by",
        description="model: an adapter of few steps for the same pipeline, as rg_lcd makes one; it stands in "
        "the reward list beside the rewards. self: the pipeline without an adapter, in one long step.",
    )
    shortcut_guidance: float | None = Field(
        None,
        ge=0,
        title="Guidance of jumps",
        description="1 for an adapter that was distilled with guidance; empty: that of the other steps.",
    )
    staged: bool = Field(
        True,
        title="In stages",
        description="As many stages as parts: in each the parts before it are held and drawn with all their "
        "steps. Off: all parts learn, and jump, all the time.",
    )

    @model_validator(mode="after")
    def _parts_are_of_adapters(self) -> Self:
        if self.lora is None:
            raise ValueError("lora must be set: the parts are those of an adapter")
        return self


class R0Config(ImageGradientConfig):
    """Rewards alone, for models of few steps. Judgements are not used, so ties and both-bad do not arise."""

    num_generations: int = Field(1, ge=1, title="Pictures per prompt", description="Drawn in each step.")
    pull: float = Field(
        1e-4,
        ge=0,
        title="Pull",
        description="Weight of the squared distance of all weights to where they started.",
        json_schema_extra=PRIMARY,
    )
    normalise: bool = Field(
        True,
        title="Normalise gradients",
        description="Each reward's gradient has the length of its weight, whatever its scale.",
    )
    random_eta: bool = Field(
        True, title="Random eta", description="Chance in the denoising steps, from 0 to 1, drawn anew."
    )
