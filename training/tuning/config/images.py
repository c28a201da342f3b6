"""Image methods: configurations."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, model_validator

from training.tuning.config.images_search import SearchKeys
from training.tuning.config.shared import (
    PRIMARY,
    BestKeys,
    Config,
    LoraConfig,
    PairKeys,
    TieModel,
    TrainConfig,
)

# Fields that methods on denoisers have in common; each stands where its form shows it.
DENOISER_LORA: Any = Field(
    LoraConfig(r=8, alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]),
    title="LoRA",
    description="Train a low-rank adapter on the denoiser; null trains all its weights. Small models do "
    'well with "all-linear".',
)
SAMPLES: Any = Field(
    4, ge=0, title="Samples", description="Prompts that are drawn before and after training; 0: none."
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
    learn_from: Literal["pairs", "labels"] = Field(
        "pairs",
        title="Learn from",
        description="labels: from single pictures that were called good or bad (thumbs; of a choice the "
        "winner is good), so that the sigmoid of the score is the probability of good. With bad for pictures "
        "that have artifacts, it is an artifact head.",
    )
    temperature: float = Field(
        1.0,
        gt=0,
        title="Temperature",
        description="Differences of scores are divided by it before they become probabilities; 0.1 on a "
        "vision-language model, as published (arXiv:2507.21391).",
    )
    ties: TieModel = Field(  # type: ignore[assignment]
        "half",
        title="Ties",
        description="half: a tie counts as half a vote for each side. drop: it is left out. rao_kupper, "
        "davidson: it has a probability of its own (arXiv:2409.17431).",
        json_schema_extra=PRIMARY,
    )
    tie_rate: float = Field(
        3.0,
        gt=0,
        title="Tie rate",
        description="nu of Rao-Kupper (above 1) or Davidson: of equal answers, 3 and 1 make half the "
        "judgements ties.",
    )
    aspects: list[str] = Field(
        [],
        title="Aspects",
        description="An output for each of these aspects, learned from the choices in it; the score is their "
        "mean, and a reward list can weigh them.",
    )
    members: int = Field(
        1,
        ge=1,
        le=64,
        title="Members",
        description="Reward models of one ensemble on one backbone (arXiv:2310.02743).",
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

    @model_validator(mode="after")
    def _outputs_are_one_kind(self) -> Self:
        if self.aspects and (self.members > 1 or self.aspect is not None):
            raise ValueError("aspects go with neither aspect nor members")
        if len(set(self.aspects)) < len(self.aspects):
            raise ValueError("aspects must differ")
        for key in (
            "aspects",
            "aspect",
            "temperature",
            "ties",
            "both_bad",
            "pairs",
            "strength",
            "rating_margin",
        ):
            if self.learn_from == "labels" and self.is_changed(key):
                raise ValueError(f"{key} is about pairs and has no use for labels")
        if self.ties == "rao_kupper" and self.tie_rate <= 1:
            raise ValueError("rao_kupper needs a tie_rate above 1")
        return self


class ImageGenerateConfig(SamplingKeys, SearchKeys):
    """Pictures for prompts. Takes no judgements, so ties and both-bad do not arise."""

    samples_per_prompt: int = Field(
        1, ge=1, title="Pictures per prompt", description="Independent samples.", json_schema_extra=PRIMARY
    )
    batch_size: int = Field(
        16,
        ge=1,
        title="Batch size",
        description="Pictures made at once; when searching, of one prompt. Samples do not depend on it.",
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", title="Precision", description="Arithmetic of the denoiser."
    )
    eta: float | None = Field(
        None,
        gt=0,
        le=1,
        title="Eta",
        description="Draw with noise on the way (1: as much as the ancestral sampler has) and record how, "
        "so that d3po can learn from what people say about these pictures. Empty: the model's own sampler.",
    )

    guide_away: bool = Field(
        False,
        title="Guide away",
        description="The model of the reward list, an adapter that learned what is dull (self_npo), takes "
        "the place of the model without prompt in guidance (arXiv:2505.11777).",
    )
    guide_merge: float = Field(
        0.0,
        ge=0,
        le=1,
        title="Own tuning left out",
        description="How much of this model's own adapter the negative model does without; 1: all of it.",
    )

    people: dict[str, NonNegativeFloat] = Field(
        {},
        title="People",
        description="For whom a result of personal_dpo draws: names and weights, such as 1 for one person, "
        "or 0.5 for each of two. Empty: for nobody.",
    )

    @model_validator(mode="after")
    def _people_are_drawn_for_plainly(self) -> Self:
        if self.people and (self.search != "none" or self.eta is not None or self.guide_away):
            raise ValueError("people goes with neither search nor eta nor guide_away")
        return self

    combine: float | None = Field(
        None,
        ge=0,
        le=1,
        title="Combine",
        description="Of an adapter: this share of the steps, the first, is drawn by the model below it, "
        "which keeps its variety, and the rest by the tuned one (ImageReFL). Empty: all by the tuned one.",
    )
    combine_guidance: float = Field(
        1.0,
        ge=1,
        title="Guidance of the tuned",
        description="In its share of the steps; guidance_scale is that of the model below.",
    )

    @model_validator(mode="after")
    def _combining_draws_by_itself(self) -> Self:
        others = self.guide_away or self.people or self.search != "none" or self.eta is not None
        if self.combine is not None and others:
            raise ValueError("combine goes with neither search nor eta nor guide_away nor people")
        if self.is_changed("combine_guidance") and self.combine is None:
            raise ValueError("combine_guidance has a use only with combine")
        return self

    @model_validator(mode="after")
    def _guidance_is_of_one_kind(self) -> Self:
        if self.guide_away and (self.search != "none" or self.eta is not None):
            raise ValueError("guide_away draws by itself: it goes with neither search nor eta")
        if self.is_changed("guide_merge") and not self.guide_away:
            raise ValueError("guide_merge has a use only with guide_away")
        return self

    @model_validator(mode="after")
    def _a_search_has_its_own_noise(self) -> Self:
        if self.eta is not None and self.search != "none":
            raise ValueError("eta records plain drawing; a search has noise of its own")
        return self


class ImageEditConfig(Config):
    """Pictures edited as their critiques say. Of judgements only critiques are used: ties and both-bad do not
    arise.
    """

    instruction: str = Field(
        "{critique}",
        min_length=1,
        title="Instruction",
        description="What the editor is told; {critique} stands for what was said about the picture.",
        json_schema_extra=PRIMARY,
    )
    margin: float = Field(
        0.0,
        ge=0,
        title="Smallest gap",
        description="Pairs of a picture and its edit whose scores differ by no more are left out.",
    )
    num_inference_steps: int = Field(100, ge=1, title="Sampling steps", description="Steps of an edit.")
    guidance_scale: float = Field(
        7.5, ge=1, title="Guidance", description="How closely the instruction is followed."
    )
    image_guidance_scale: float = Field(
        1.5, ge=1, title="Guidance of the picture", description="How closely the picture is kept."
    )
    batch_size: int = Field(16, ge=1, title="Batch size", description="Pairs scored at once.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", title="Precision", description="Arithmetic of the editor and the rewards."
    )

    @model_validator(mode="after")
    def _critiques_are_told(self) -> Self:
        if "{critique}" not in self.instruction:
            raise ValueError("instruction needs {critique}, where what was said stands")
        return self


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
    select: Literal["none", "pairs"] = Field(
        "none",
        title="Selection",
        description="pairs: selected.jsonl holds the rows again, each with a judge's choice of its best "
        "picture against its worst, such as of a picture and its edit.",
    )
    margin: float = Field(
        0.0,
        ge=0,
        title="Smallest gap",
        description="With pairs: rows whose best and worst score differ by no more are left out.",
    )

    questions: list[Annotated[str, Field(min_length=1)]] = Field(
        [],
        title="Questions",
        description="Of one reward with ask: try these questions on rows whose pictures have thumbs, and use "
        "the one that tells good from bad best; questions.json lists how well each did.",
    )

    @model_validator(mode="after")
    def _margin_has_a_use(self) -> Self:
        if self.is_changed("margin") and self.select == "none":
            raise ValueError('margin has a use only with "select": "pairs"')
        return self
