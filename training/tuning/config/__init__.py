"""The configuration of every method: frozen pydantic, no unknown keys, no torch."""

from training.tuning.config.direct import (
    DPOConfig,
    SFTConfig,
)
from training.tuning.config.images import (
    DiffusionDPOConfig,
    ImageGenerateConfig,
    ImageRewardModelConfig,
    ImageScoreConfig,
    ImageTrainConfig,
    SamplingKeys,
)
from training.tuning.config.jobs import (
    GenerateConfig,
    ScoreConfig,
)
from training.tuning.config.online import (
    BestOfNConfig,
    GRPOConfig,
    OnlineDPOConfig,
    PPOConfig,
    RLOOConfig,
    RolloutKeys,
)
from training.tuning.config.rewards import (
    RewardModelConfig,
)
from training.tuning.config.shared import (
    PRIMARY,
    BestKeys,
    Config,
    LoraConfig,
    PairKeys,
    PairRule,
    TieModel,
    TieRule,
    TrainConfig,
)
from training.tuning.config.text import (
    SampleKeys,
    TextTrainConfig,
)

__all__ = [
    "PRIMARY",
    "BestKeys",
    "BestOfNConfig",
    "Config",
    "DPOConfig",
    "DiffusionDPOConfig",
    "GRPOConfig",
    "GenerateConfig",
    "ImageGenerateConfig",
    "ImageRewardModelConfig",
    "ImageScoreConfig",
    "ImageTrainConfig",
    "LoraConfig",
    "OnlineDPOConfig",
    "PPOConfig",
    "PairKeys",
    "PairRule",
    "RLOOConfig",
    "RewardModelConfig",
    "RolloutKeys",
    "SFTConfig",
    "SampleKeys",
    "SamplingKeys",
    "ScoreConfig",
    "TextTrainConfig",
    "TieModel",
    "TieRule",
    "TrainConfig",
]
