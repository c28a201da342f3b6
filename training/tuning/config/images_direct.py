"""Image methods that tune on given pictures."""

from typing import Literal, Self

from pydantic import Field, NonNegativeInt, model_validator

from training.tuning.config.direct import refuse
from training.tuning.config.images import DENOISER_LORA, SAMPLES, ImageTrainConfig, SamplingKeys
from training.tuning.config.shared import PRIMARY, Config, LoraConfig, PairKeys, VoteKeys
from training.tuning.config.unpaired import ScoreKeys


class TimestepKeys(Config):
    """Where on the noise schedule is trained."""

    timestep_sampling: Literal["uniform", "logit_normal"] = Field(
        "uniform",
        title="Timesteps",
        description="uniform: each equally often. logit_normal: mostly those in the middle of the schedule, "
        "as flow models are trained (arXiv:2403.03206).",
    )
    timestep_low: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Lowest timestep",
        description="Timesteps are drawn from this share of the noise schedule on (0: no "
        "noise). What a prompt leaves open, such as size and place, is decided where noise "
        "is high: 0.75 learns only that.",
    )
    timestep_high: float = Field(
        1.0, gt=0, le=1, title="Highest timestep", description="… up to this share (1: all noise)."
    )
    timesteps: list[NonNegativeInt] | None = Field(
        None,
        min_length=1,
        title="Only these timesteps",
        description="Train at these alone, such as [249, 499, 749, 999] for a model that draws in four "
        "steps (turbo). Empty: as the keys above say.",
    )

    @model_validator(mode="after")
    def _timesteps_are_a_range(self) -> Self:
        refuse(self.timestep_low >= self.timestep_high, "timestep_low must be below timestep_high")
        ranged = ("timestep_low", "timestep_high", "timestep_sampling")
        refuse(
            self.timesteps is not None and any(map(self.is_changed, ranged)),
            f"timesteps leaves nothing to draw for {', '.join(ranged)}: use one or the other",
        )
        return self


class ImageDirectConfig(ImageTrainConfig, SamplingKeys, TimestepKeys):
    """What methods share that learn from given pictures: framing, timesteps, samples."""

    learning_rate: float = Field(
        1e-4,
        gt=0,
        title="Learning rate",
        description="Peak learning rate. With LoRA 1e-4 suits Stable Diffusion, 1e-3 models of a few "
        "million weights; full fine-tuning takes a tenth.",
        json_schema_extra=PRIMARY,
    )
    lora: LoraConfig | None = DENOISER_LORA
    caption_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Caption dropout",
        description="Share of groups that are trained without their prompt. Diffusion-DPO's authors take "
        "0.2, for models that are sampled with guidance.",
    )
    resolution: int | None = Field(
        None,
        ge=8,
        title="Resolution",
        description="Scale and crop pictures to this height and width, in pixels. Empty: train each "
        "group at its own size; groups of mixed sizes are dropped.",
    )
    random_crop: bool = Field(
        False,
        title="Random crop",
        description="With a resolution: crop at a random place, the same for all pictures of a group. "
        "Else the middle.",
    )
    random_flip: bool = Field(
        False,
        title="Random flip",
        description="Mirror half of the groups, all pictures of a group alike. Not for prompts that say "
        "left or right.",
    )
    samples: int = SAMPLES

    @model_validator(mode="after")
    def _crop_has_a_size(self) -> Self:
        refuse(self.random_crop and self.resolution is None, "random_crop needs a resolution to crop to")
        return self


class ImageReferenceKeys(Config):
    """How strongly, and how, the reference holds the model."""

    beta: float = Field(
        2000.0,
        gt=0,
        title="Beta",
        description="Weight of the pull towards the reference; smaller moves further. It multiplies the "
        "mean error per number of the latent: the published 2000 to 5000 are for Stable Diffusion's 16,384 "
        "numbers; in proportion, a latent of a few hundred takes 20 to 100.",
        json_schema_extra=PRIMARY,
    )
    reference: Literal["cached", "live"] = Field(
        "cached",
        title="Reference",
        description="cached: the reference's errors are computed once before training, at the noises and "
        "timesteps that training will use. live: at every step. Same values; without LoRA "
        "cached needs one copy of the model less.",
    )
    draws: int | None = Field(
        None,
        ge=1,
        title="Noises of a group",
        description="How many noises and timesteps each group has; epochs take turns with them, and a cached "
        "reference is asked once for each. Empty: new ones in every epoch, where asking the reference is up "
        "to a third of the work.",
    )


class BetaScheduleKeys(Config):
    """How the pull towards the reference depends on the timestep."""

    beta_schedule: Literal["constant", "flow"] = Field(
        "constant",
        title="Beta over time",
        description="constant: the same at all timesteps. flow: times (1 - t)² on a flow model (t = 1: all "
        "noise), as its derivation says; the authors of Flow-DPO found constant better (arXiv:2501.13918).",
    )


class DiffusionDPOConfig(ImageDirectConfig, PairKeys, ImageReferenceKeys, BetaScheduleKeys):
    """Diffusion-DPO. Ties and both-bad are left out unless ``ties``/``both_bad`` say half."""


class PersonalDPOConfig(ImageDirectConfig, PairKeys, ImageReferenceKeys, BetaScheduleKeys):
    """Diffusion-DPO that is told whose judgement it is. Ties and both-bad are left out unless
    ``ties``/``both_bad`` say half.
    """

    lora: LoraConfig | None = Field(
        None, title="LoRA", description="Null only: what people have of their own is trained, nothing else."
    )
    examples: int = Field(
        4,
        ge=1,
        title="Pairs that make a person",
        description="Everybody is described by their first so many pairs; who has fewer is left out.",
    )
    fit: Literal["all", "people"] = Field(
        "all",
        title="Fit",
        description="people: add new people to an earlier result from their pairs, without training.",
    )
    caption_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        title="Caption dropout",
        description="Share of groups that are trained without their prompt and their person.",
    )

    @model_validator(mode="after")
    def _no_adapter(self) -> Self:
        refuse(self.lora is not None, "people are added to the base as it is: lora must be null")
        return self


class ImageSFTConfig(ImageDirectConfig, ScoreKeys):
    """Supervised training on pictures. Of two, the chosen is good. Ties are left out; both-bad makes all
    candidates bad.
    """

    weights: Literal["votes", "exp_score", "threshold", "softmax"] = Field(
        "votes",
        title="Weights",
        description="votes: pictures that were preferred or got a thumb up, by their votes. exp_score: all, "
        "by exp(score / temperature) (reward-weighted regression). threshold: those that score higher than "
        "threshold, by their scores (GORS). softmax: all, as often as people who choose by score would pick "
        "them of their group. Scores are those of the reward list, or else of ratings (0 to 1).",
        json_schema_extra=PRIMARY,
    )
    temperature: float = Field(
        1.0, gt=0, title="Temperature", description="What scores are divided by in exp_score and softmax."
    )
    threshold: float = Field(
        0.5, title="Threshold", description="With threshold: pictures that score no higher are left out."
    )
    demonstration_weight: float = Field(
        1.0,
        ge=0,
        title="Weight of demonstrations",
        description="With votes and softmax: what a row with one picture and no judgement weighs, such as "
        "real data beside the model's own (arXiv:2407.09499); 0 leaves them out.",
    )
    rating: str | None = Field(
        None,
        title="Rating",
        description="The attribute that is the score, such as helpfulness; empty: the mean of all.",
    )

    @model_validator(mode="after")
    def _keys_have_a_use(self) -> Self:
        tempered = self.weights in ("exp_score", "softmax")
        refuse(self.is_changed("temperature") and not tempered, f"weights {self.weights} has no temperature")
        cut = self.weights == "threshold"
        refuse(self.is_changed("threshold") and not cut, f"weights {self.weights} has no threshold")
        picked = self.weights in ("votes", "softmax")
        refuse(
            self.is_changed("demonstration_weight") and not picked,
            f"weights {self.weights} weighs demonstrations like other pictures",
        )
        scored = self.weights != "votes"
        refuse(self.is_changed("rating") and not scored, "weights votes reads no ratings")
        return self


class DiffusionKTOConfig(ImageDirectConfig, VoteKeys, ImageReferenceKeys):
    """Diffusion-KTO on single pictures. Of two, the chosen is good and the other bad. Ties are left out;
    both-bad makes all candidates bad.
    """

    beta: float = Field(
        1000.0,
        gt=0,
        title="Beta",
        description="How sharply gains and losses are told apart, and with it how far the model moves. As "
        "for Diffusion-DPO it belongs to Stable Diffusion's 16,384 numbers; smaller latents take less.",
        json_schema_extra=PRIMARY,
    )
    utility: Literal["kahneman_tversky", "loss_averse", "risk_seeking"] = Field(
        "kahneman_tversky",
        title="Utility",
        description="What a gain is worth. kahneman_tversky: less the further from the baseline, on both "
        "sides (the paper's choice). loss_averse: losses weigh more. risk_seeking: gains weigh more.",
    )
    baseline: Literal["mean", "class_means", "mismatched", "none"] = Field(
        "mean",
        title="Baseline",
        description="What gains are measured against, at least 0. mean: the batch's mean gain. class_means: "
        "the mean of the means of liked and disliked. mismatched: the mean gain with other prompts. none: 0.",
    )
    liked_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        title="Share of liked",
        description="Repeat the liked or the disliked until liked pictures make up this share (the authors "
        "take 0.8). Empty: as they are.",
    )


class SePPOConfig(ImageDirectConfig, VoteKeys):
    """SePPO on winners. Of two, the chosen is the winner. Ties and both-bad are left out."""

    beta: float = Field(
        2000.0,
        gt=0,
        title="Beta",
        description="Weight of the pull towards the reference; smaller moves further. It multiplies the "
        "mean error per number of the latent, of which Stable Diffusion has 16,384; smaller latents take "
        "less.",
        json_schema_extra=PRIMARY,
    )
    references: int = Field(
        7,
        ge=1,
        title="Earlier policies",
        description="How many are kept; one of them is the reference of a step. Without LoRA each is a copy "
        "of all weights.",
    )
    keep_every: int = Field(30, ge=1, title="Keep every", description="Steps between policies that are kept.")


class D3POConfig(ImageTrainConfig, PairKeys, SamplingKeys):
    """D3PO on recorded chains. Ties and both-bad are left out unless ``ties``/``both_bad`` say half."""

    learning_rate: float = Field(
        3e-5,
        gt=0,
        title="Learning rate",
        description="Peak learning rate. 3e-5 suits LoRA on Stable Diffusion, 1e-3 models of a few million "
        "weights.",
        json_schema_extra=PRIMARY,
    )
    beta: float = Field(
        0.1,
        gt=0,
        title="Beta",
        description="How strongly a step's log-ratios are told apart. They are means over a picture's "
        "numbers, and clipped: larger values only make single steps count more.",
        json_schema_extra=PRIMARY,
    )
    lora: LoraConfig | None = DENOISER_LORA
    ratio_clip: float = Field(
        0.1,
        gt=0,
        lt=1,
        title="Clip",
        description="A step stops learning once its likelihood has changed by this share.",
    )
    step_share: float = Field(
        1.0,
        gt=0,
        le=1,
        title="Share of the steps",
        description="Of the denoising steps this share is trained, drawn anew in every step of the "
        "optimizer.",
    )
    pareto: list[str] | None = Field(
        None,
        min_length=1,
        title="Aspects that must agree",
        description="A picture is preferred if it is chosen in one of these aspects and in none of them "
        "another is. Empty: by the choice as a whole.",
    )
    samples: int = SAMPLES

    @model_validator(mode="after")
    def _one_view(self) -> Self:
        refuse(self.pareto is not None and self.looks_at_a_part, "pareto looks at aspects itself")
        return self


class DiffusionSharpeningConfig(ImageDirectConfig):
    """Diffusion-Sharpening. Judgements are not used, so ties and both-bad do not arise."""

    loss: Literal["sft", "rlhf"] = Field(
        "sft",
        title="Loss",
        description="sft: the pictures of the data, each from the noise that does best. rlhf: pictures that "
        "the model draws itself, the best noise against the worst.",
        json_schema_extra=PRIMARY,
    )
    noises: int = Field(3, ge=2, title="Noises", description="Tried for each picture.")
    roll: int = Field(
        3, ge=1, title="Steps", description="Of the sampler, that each noise is followed and scored."
    )
    beta: float = Field(
        2500.0,
        gt=0,
        title="Beta",
        description="For rlhf: how strongly best and worst are told apart. It multiplies the mean error per "
        "number of the latent, of which Stable Diffusion has 16,384; smaller latents take less.",
    )

    @model_validator(mode="after")
    def _keys_have_a_use_here(self) -> Self:
        refuse(self.is_changed("beta") and self.loss == "sft", 'beta needs "loss": "rlhf"')
        changed = [name for name in TimestepKeys.model_fields if self.is_changed(name)]
        refuse(changed, f"{', '.join(changed)} has no use: places are those of the sampler's steps")
        steps = self.num_inference_steps
        refuse(steps is not None and steps < self.roll, "num_inference_steps must be at least roll")
        return self
