"""Image methods that train on pictures which the policy draws as it goes, scored by rewards."""

from typing import Literal

from pydantic import Field

from training.tuning.config.images import ImageTrainConfig, SamplingKeys
from training.tuning.config.shared import PRIMARY, Config, LoraConfig


class ImageOnlineConfig(ImageTrainConfig, SamplingKeys):
    """Keys of all image methods on rewards. Judgements are not used, so ties and both-bad do not arise."""

    learning_rate: float = Field(
        3e-4,
        gt=0,
        title="Learning rate",
        description="Peak learning rate. With LoRA 3e-4 suits Stable Diffusion, 1e-3 models of a few "
        "million weights; full fine-tuning takes a tenth.",
        json_schema_extra=PRIMARY,
    )
    batch_size: int = Field(8, ge=1, title="Batch size", description="Prompts per step.")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        title="Micro-batch size",
        description="Pictures per forward pass, in drawing and in training; empty: as many as fit a fixed "
        "budget.",
    )
    lora: LoraConfig | None = Field(
        LoraConfig(r=8, alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]),
        title="LoRA",
        description="Train a low-rank adapter on the denoiser; null trains all its weights. Small models do "
        'well with "all-linear".',
    )
    scheduler: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        title="Schedule",
        description="How the learning rate goes on after the warm-up: stays, or falls to zero.",
    )
    warmup: float = Field(
        0.0, ge=0, title="Warm-up", description="Below 1: share of all steps; from 1 on: number of steps."
    )
    num_generations: int = Field(
        8,
        ge=1,
        title="Pictures per prompt",
        description="Drawn by the policy in each step.",
    )
    log_every: int = Field(1, ge=1, title="Log every", description="Steps between logged means.")
    save_every: int = Field(20, ge=1, title="Save every", description="Steps between checkpoints.")
    samples: int = Field(
        4, ge=0, title="Samples", description="Prompts that are drawn before and after training; 0: none."
    )


class UpdateKeys(Config):
    """How often and on which of a chain's steps a policy is updated."""

    updates: int = Field(
        1, ge=1, title="Updates per step", description="Passes over the pictures of a step, each an update."
    )
    minibatches: int = Field(
        1, ge=1, title="Mini-batches", description="Each pass is split into that many updates."
    )
    step_share: float = Field(
        1.0,
        gt=0,
        le=1,
        title="Share of the steps",
        description="Of the denoising steps with noise, this share is trained, drawn anew in each pass: "
        "0.6 takes little over half of the time (arXiv:2505.07818).",
    )
    guidance_gradient: bool = Field(
        True,
        title="Both branches learn",
        description="With guidance the gradient also passes through the prediction without prompt "
        "(arXiv:2305.13301); off, that one is a constant.",
    )


class ClipKeys(Config):
    """How far a single update may go."""

    clip: float = Field(
        1e-4,
        gt=0,
        lt=1,
        title="Clip",
        description="The ratio of a step's likelihoods may change by this share. Log-probabilities are means "
        "over a picture's numbers, so that 1e-4 is much.",
    )
    advantage_clip: float = Field(
        5.0, gt=0, title="Clip of advantages", description="Advantages are kept within this distance of 0."
    )


class DDPOConfig(ImageOnlineConfig, UpdateKeys, ClipKeys):
    """Policy gradient on denoising steps. Judgements are not used, so ties and both-bad do not arise."""

    eta: float = Field(
        1.0,
        gt=0,
        le=1,
        title="Eta",
        description="Noise of the denoising steps while training; 1 is as much as the ancestral sampler has.",
    )
    history: int = Field(
        16,
        ge=2,
        title="Remembered rewards",
        description="Of each prompt, with which a picture is compared; until there are as many, with all "
        "pictures of the step.",
    )
    beta: float = Field(
        0.0,
        ge=0,
        title="Beta",
        description="Weight of the KL divergence from the start, step by step; 0 as in the paper.",
        json_schema_extra=PRIMARY,
    )
