"""Image methods that train on pictures which the policy draws as it goes, scored by rewards."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.tuning.config.images import DENOISER_LORA, SAMPLES, ImageTrainConfig, SamplingKeys
from training.tuning.config.shared import PRIMARY, Config, LoraConfig

WindowOrder = Literal["progressive", "decaying", "random", "growing"]


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
    lora: LoraConfig | None = DENOISER_LORA
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
    samples: int = SAMPLES


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


class WindowKeys(Config):
    """Training a part of the chain at a time."""

    window: int | None = Field(
        None,
        ge=1,
        title="Window",
        description="Train that many steps in a row at a time; empty: all that have noise.",
    )
    window_every: int = Field(
        25,
        ge=1,
        title="Window stays",
        description="Training steps before the window moves, or grows, by one.",
    )
    window_order: WindowOrder = Field(
        "progressive",
        title="Window moves",
        description="progressive: from the noisiest steps on. decaying: so, but faster late in the chain. "
        "random: anywhere. growing: the last steps, then one more before them each time, until all are in.",
    )

    @model_validator(mode="after")
    def _window_has_a_use(self) -> Self:
        if self.window is None and (self.is_changed("window_every") or self.is_changed("window_order")):
            raise ValueError("window_every and window_order have no use without window")
        return self


class RegulariserKeys(Config):
    """Where the KL divergence counts, and what it is taken from (GARDO, arXiv:2512.24138)."""

    kl_on: Literal["all", "uncertain"] = Field(
        "all",
        title="Divergence of",
        description="uncertain: of pictures that the reward prefers and the list's entries of weight 0 do "
        "not; the others may move freely. all: of every picture.",
    )
    kl_share: float = Field(
        0.1,
        ge=0.02,
        le=0.2,
        title="Uncertain share",
        description="Of the pictures that the reward likes better than those entries do, at first; between "
        "0.02 and 0.2 it follows how far they disagree.",
    )
    kl_reset_every: int | None = Field(
        None,
        ge=1,
        title="New start every",
        description="Training steps after which the divergence is from the policy as it then is; empty: "
        "always from the start.",
    )
    kl_reset_at: float | None = Field(
        None,
        gt=0,
        title="New start at",
        description="Or as soon as the divergence exceeds this, such as 3e-4.",
    )
    diversity: bool = Field(
        False,
        title="Credit for unlike pictures",
        description="Good pictures count more the less they resemble others of their prompt, by the features "
        "of the list's first image reward model, or seen from afar. Takes scale: none.",
    )

    @property
    def moves_reference(self) -> bool:
        return self.kl_reset_every is not None or self.kl_reset_at is not None

    @model_validator(mode="after")
    def _regulariser_has_a_use(self) -> Self:
        if self.kl_on == "all" and self.is_changed("kl_share"):
            raise ValueError('kl_share has a use only with "kl_on": "uncertain"')
        if (self.kl_on == "uncertain" or self.moves_reference) and not getattr(self, "beta", 0.0):
            raise ValueError("kl_on, kl_reset_every and kl_reset_at have no use without beta")
        return self


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


class DDPOConfig(ImageOnlineConfig, UpdateKeys, WindowKeys, ClipKeys):
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
    noise: Literal["ddim", "consistency"] | None = Field(
        None,
        title="Steps",
        description="ddim: with the noise of eta. consistency: to a whole picture and back to the next noise "
        "level, as consistency models draw (arXiv:2404.03673). Empty: consistency for such models, ddim for "
        "others.",
    )
    window: int | None = Field(
        None,
        ge=1,
        title="Window",
        description="Train that many steps in a row at a time, which keeps pictures various "
        "(arXiv:2410.08315); all are drawn with noise. Empty: train all.",
    )
    window_every: int = Field(
        1, ge=1, title="Window stays", description="Training steps before the window moves, or grows, by one."
    )
    window_order: WindowOrder = Field(
        "random",
        title="Window moves",
        description="progressive: from the noisiest steps on. decaying: so, but faster late in the chain. "
        "random: anywhere. growing: the last steps, then one more before them each time, until all are in "
        "(arXiv:2503.11240).",
    )
    branches: int = Field(
        1,
        ge=1,
        title="Branches",
        description="That many pictures of a prompt go one way up to the window, or begin at the same noise: "
        "then they differ by what is trained alone.",
    )
    contrast: float | None = Field(
        None,
        ge=0,
        title="Contrast",
        description="Of pictures that went one way only the best teaches, if its advantage is this much, and "
        "the worst, if it is below minus this; 0.5 in arXiv:2503.11240. Empty: all teach.",
    )

    @model_validator(mode="after")
    def _keys_have_a_use(self) -> Self:
        if self.num_generations % self.branches:
            raise ValueError("num_generations must be a multiple of branches")
        if self.contrast is not None and self.branches == 1:
            raise ValueError("contrast needs branches: pictures that went one way")
        if self.noise == "consistency" and self.is_changed("eta"):
            raise ValueError("eta is the noise of ddim; consistency steps have their own")
        return self


class DPOKConfig(ImageOnlineConfig, UpdateKeys, ClipKeys):
    """DPOK. Judgements are not used, so ties and both-bad do not arise."""

    learning_rate: float = Field(
        1e-5,
        gt=0,
        title="Learning rate",
        description="Peak learning rate; small models take 1e-3.",
        json_schema_extra=PRIMARY,
    )
    max_grad_norm: float | None = Field(
        0.1, gt=0, title="Gradient clipping", description="Largest norm of the gradient; null: no limit."
    )
    eta: float = Field(
        1.0,
        gt=0,
        le=1,
        title="Eta",
        description="Noise of the denoising steps while training; 1 is as much as the ancestral sampler has.",
    )
    updates: int = Field(5, ge=1, title="Updates per step", description="Passes over the pictures of a step.")
    reward_weight: float = Field(
        100.0,
        gt=0,
        title="Weight of the reward",
        description="Rewards are not standardised: choose it by their scale.",
    )
    beta: float = Field(
        0.01,
        ge=0,
        title="Beta",
        description="Weight of the divergence from the start.",
        json_schema_extra=PRIMARY,
    )
    kl: Literal["epsilon", "step"] = Field(
        "epsilon",
        title="Divergence",
        description="epsilon: squared distance of the predicted noises, as in the authors' code. step: "
        "the KL divergence of each step, as in the paper.",
    )
    value_updates: int = Field(
        5, ge=1, title="Updates of the baseline", description="Before those of the policy, in each step."
    )
    value_learning_rate: float = Field(
        1e-4, gt=0, title="Learning rate of the baseline", description="Of the network that predicts rewards."
    )


class FlowGRPOConfig(ImageOnlineConfig, UpdateKeys, WindowKeys, RegulariserKeys, ClipKeys):
    """Group relative policy optimisation. Judgements are not used, so ties and both-bad do not arise."""

    num_generations: int = Field(
        8, ge=2, title="Pictures per prompt", description="Compared with one another."
    )
    guidance_gradient: bool = Field(
        False,
        title="Both branches learn",
        description="With guidance the gradient also passes through the prediction without prompt; off, as "
        "in the paper, that one is a constant.",
    )
    beta: float = Field(
        0.04,
        ge=0,
        title="Beta",
        description="Weight of the KL divergence from the start, step by step; 0 needs no reference.",
        json_schema_extra=PRIMARY,
    )
    noise: Literal["sde", "constant", "ddim"] | None = Field(
        None,
        title="Noise",
        description="Of the steps. sde: 0.7 √(t / (1 - t)) (arXiv:2505.05470). constant: 0.3 at every step "
        "(arXiv:2505.07818). ddim: that of DDIM with η = 1, which forgets where a chain began. Empty: "
        "sde for flow models, ddim for others.",
    )
    noise_level: float | None = Field(
        None, gt=0, title="Noise level", description="In place of 0.7, 0.3 or 1."
    )
    scale: Literal["group", "batch", "none"] = Field(
        "batch",
        title="Scale of advantages",
        description="What they are divided by: the standard deviation of all rewards (batch, "
        "arXiv:2505.05470), of the prompt's (group, arXiv:2505.07818), or nothing.",
    )
    per_reward: bool = Field(
        False,
        title="Scale each reward",
        description="With several rewards: scale each before they are weighed and added.",
    )
    same_start: bool = Field(
        False,
        title="Same start",
        description="All pictures of a prompt begin at the same noise (arXiv:2505.07818).",
    )
    window: int | None = Field(
        None,
        ge=1,
        title="Window",
        description="Draw with noise, and train, in that many steps in a row, and without noise outside of "
        "them (arXiv:2507.21802); empty: in all but the last.",
    )


class SelfNPOConfig(ImageOnlineConfig):
    """A negative model, from prompts alone. Judgements are not used, so ties and both-bad do not arise."""

    learning_rate: float = Field(
        1e-5,
        gt=0,
        title="Learning rate",
        description="Peak learning rate; full fine-tuning takes 1e-6, small models 1e-3.",
        json_schema_extra=PRIMARY,
    )
    num_generations: int = Field(
        1, ge=1, title="Pictures per prompt", description="Begun by the teacher in each step."
    )
    teacher_kept: float = Field(
        0.999,
        ge=0,
        lt=1,
        title="Teacher kept",
        description="How much of the teacher stays after a step; the rest is the trained model.",
        json_schema_extra=PRIMARY,
    )
    huber: float = Field(
        0.001,
        gt=0,
        title="Huber",
        description="Errors of a latent's numbers below this count as squares, larger ones by their size.",
    )
