"""Reward models that judge unfinished pictures."""

from typing import Annotated

from pydantic import Field

from training.tuning.config.images import ImageTrainConfig, SamplingKeys
from training.tuning.config.shared import PRIMARY, LoraConfig

Share = Annotated[float, Field(gt=0, lt=1)]


class EarlyRewardModelConfig(ImageTrainConfig, SamplingKeys):
    """A reward model that sees early what a picture will be worth. Judgements are not used, so ties and
    both-bad do not arise.
    """

    learning_rate: float = Field(
        3e-6,
        gt=0,
        title="Learning rate",
        description="Peak learning rate of the first level. 3e-6 suits a large model, 1e-3 the small "
        "backbone.",
        json_schema_extra=PRIMARY,
    )
    epochs: float = Field(
        1.0,
        gt=0,
        title="Epochs",
        description="How often all pictures are gone through at each level.",
        json_schema_extra=PRIMARY,
    )
    batch_size: int = Field(16, ge=1, title="Batch size", description="Pictures per optimizer step.")
    lora: LoraConfig | None = Field(
        None,
        title="LoRA",
        description="Train a low-rank adapter on a pretrained reward model; null trains all its weights. The "
        "small backbone has nothing to adapt: null only.",
    )
    levels: list[Share] = Field(
        [0.55, 0.3, 0.1],
        min_length=1,
        title="Levels",
        description="Shares of the denoising steps after which pictures will be judged: the cuts of the "
        "search. The last, nearly finished ones are learnt first.",
        json_schema_extra=PRIMARY,
    )
    samples_per_prompt: int = Field(
        8, ge=1, title="Pictures per prompt", description="Drawn once, to learn from."
    )
    last_level_rate: float = Field(
        0.5,
        gt=0,
        le=1,
        title="Rate at the last level",
        description="The learning rate falls linearly from level to level towards this share of it.",
    )
    eta: float = Field(1.0, ge=0, le=1, title="Eta", description="Chance in the steps, as the search has it.")
