"""Image methods: configurations."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.shared import (
    PRIMARY,
    BestKeys,
    Config,
    LoraConfig,
    PairKeys,
    TieRule,
    TrainConfig,
)


class ImageTrainConfig(TrainConfig):
    """Keys that all image training methods share."""

    max_length: int | None = Field(
        None,
        ge=1,
        title="Longest prompt",
        description="In tokens; groups with a longer prompt are dropped and counted. Null: what the text "
        "encoder reads.",
    )


class SamplingKeys(Config):
    """How pictures are sampled. Empty values: those of the base's generation_config.json, else diffusers'
    own.
    """

    num_inference_steps: int | None = Field(
        None,
        ge=1,
        title="Sampling steps",
        description="Denoising steps per picture; empty: the model's default.",
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        title="Guidance",
        description="Classifier-free guidance; 1 is none and takes half the time; empty: the model's "
        "default.",
    )
    height: int | None = Field(
        None, ge=8, title="Height", description="In pixels; empty: the model's default."
    )
    width: int | None = Field(None, ge=8, title="Width", description="In pixels; empty: the model's default.")


class DiffusionDPOConfig(ImageTrainConfig, PairKeys, SamplingKeys):
    """Diffusion-DPO. Ties and both-bad are left out unless ``ties``/``both_bad`` say half."""

    learning_rate: float = Field(
        1e-4,
        gt=0,
        title="Learning rate",
        description="Peak learning rate. With LoRA 1e-4 suits Stable Diffusion, 1e-3 models of a few "
        "million weights; full fine-tuning takes a tenth.",
        json_schema_extra=PRIMARY,
    )
    beta: float = Field(
        2000.0,
        gt=0,
        title="Beta",
        description="Weight of the pull towards the reference; smaller moves further. It multiplies the "
        "mean error per number of the latent: the published 2000 to 5000 are for Stable Diffusion's 16,384 "
        "numbers; in proportion, a latent of a few hundred takes 20 to 100.",
        json_schema_extra=PRIMARY,
    )
    lora: LoraConfig | None = Field(
        LoraConfig(r=8, alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]),
        title="LoRA",
        description="Train a low-rank adapter on the denoiser; null trains all its weights. Small models do "
        'well with "all-linear".',
    )
    caption_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Caption dropout",
        description="Share of groups that are trained without their prompt. The authors' code takes 0.2, "
        "for models that are sampled with guidance.",
    )
    timestep_low: float = Field(
        0.0,
        ge=0,
        lt=1,
        title="Lowest timestep",
        description="Timesteps are drawn uniformly from this share of the noise schedule on (0: no "
        "noise). What a prompt leaves open, such as size and place, is decided where noise "
        "is high: 0.75 learns only that.",
    )
    timestep_high: float = Field(
        1.0, gt=0, le=1, title="Highest timestep", description="… up to this share (1: all noise)."
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
    reference: Literal["cached", "live"] = Field(
        "cached",
        title="Reference",
        description="cached: the reference's errors are computed once before training, at the noises and "
        "timesteps that training will use. live: at every step. Same values; without LoRA "
        "cached needs one copy of the model less.",
    )
    samples: int = Field(
        4, ge=0, title="Samples", description="Prompts that are drawn before and after training; 0: none."
    )

    @model_validator(mode="after")
    def _timesteps_are_a_range(self) -> Self:
        if self.timestep_low >= self.timestep_high:
            raise ValueError("timestep_low must be below timestep_high")
        return self

    @model_validator(mode="after")
    def _crop_has_a_size(self) -> Self:
        if self.random_crop and self.resolution is None:
            raise ValueError("random_crop needs a resolution to crop to")
        return self


class ImageRewardModelConfig(ImageTrainConfig, PairKeys, BestKeys):
    """Bradley-Terry reward on pictures. A tie counts half for each side unless ``ties`` says drop; both-bad
    is dropped.
    """

    learning_rate: float = Field(
        1e-3,
        gt=0,
        title="Learning rate",
        description="Peak learning rate. 1e-3 suits the small backbone; a pretrained CLIP takes 1e-5, "
        "with LoRA 1e-4.",
        json_schema_extra=PRIMARY,
    )
    epochs: float = Field(
        10.0,
        gt=0,
        title="Epochs",
        description="How often the data is gone through.",
        json_schema_extra=PRIMARY,
    )
    batch_size: int = Field(
        16, ge=1, title="Batch size", description="Groups per optimizer step, however they are split."
    )
    lora: LoraConfig | None = Field(
        None,
        title="LoRA",
        description="Train a low-rank adapter on a pretrained CLIP (the head is always trained in full); "
        "null trains all weights. The small backbone has nothing to adapt: null only.",
    )
    ties: TieRule = Field(
        "half",
        title="Ties",
        description="half: a tie counts as half a vote for each side. drop: it is left out.",
        json_schema_extra=PRIMARY,
    )
    hidden: int = Field(64, ge=1, title="Head width", description="Hidden units of the head.")
    image_size: int | None = Field(
        None,
        ge=16,
        title="Picture size",
        description="The small backbone sees pictures at this height and width; empty: at the size of the "
        "first picture, from 16 to 64. A CLIP has its own size.",
    )
    width: int = Field(
        128,
        ge=16,
        multiple_of=4,
        title="Backbone width",
        description="Features of the small backbone. A CLIP has its own.",
    )


class ImageGenerateConfig(SamplingKeys):
    """Pictures for prompts. Takes no judgements, so ties and both-bad do not arise."""

    samples_per_prompt: int = Field(
        1, ge=1, title="Pictures per prompt", description="Independent samples.", json_schema_extra=PRIMARY
    )
    batch_size: int = Field(
        16, ge=1, title="Batch size", description="Pictures made at once. Samples do not depend on it."
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", title="Precision", description="Arithmetic of the denoiser."
    )


class ImageScoreConfig(Config):
    """Scores of pictures by an image reward model. Judgements are ignored, so ties and both-bad do not
    arise.
    """

    batch_size: int = Field(
        16, ge=1, title="Batch size", description="Groups scored at once.", json_schema_extra=PRIMARY
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", title="Precision", description="Arithmetic of the model."
    )
