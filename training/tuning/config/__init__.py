"""The configuration of every method: frozen pydantic, no unknown keys, no torch."""

from training.tuning.config.direct import (
    DPOConfig,
    SFTConfig,
)
from training.tuning.config.distillation import DistillationConfig
from training.tuning.config.images import (
    ImageEditConfig,
    ImageGenerateConfig,
    ImageRewardModelConfig,
    ImageScoreConfig,
    ImageTrainConfig,
    SamplingKeys,
)
from training.tuning.config.images_adversary import AdvGRPOConfig
from training.tuning.config.images_consistency import RGLCDConfig
from training.tuning.config.images_direct import (
    BetaScheduleKeys,
    D3POConfig,
    DiffusionDPOConfig,
    DiffusionKTOConfig,
    DiffusionSharpeningConfig,
    ImageDirectConfig,
    ImageReferenceKeys,
    ImageSFTConfig,
    PersonalDPOConfig,
    SePPOConfig,
    TimestepKeys,
)
from training.tuning.config.images_early import EarlyRewardModelConfig
from training.tuning.config.images_forward import CRDConfig, DiffusionNFTConfig, ForwardConfig
from training.tuning.config.images_gradient import (
    AdjointMatchingConfig,
    DraftConfig,
    R0Config,
    ReFLConfig,
    SRPOConfig,
    VARDConfig,
)
from training.tuning.config.images_online import (
    DDPOConfig,
    DPOKConfig,
    FlowGRPOConfig,
    ImageOnlineConfig,
    SelfNPOConfig,
    WindowKeys,
)
from training.tuning.config.jobs import (
    EvaluateConfig,
    GenerateConfig,
    ImageEvaluateConfig,
    ProbeKeys,
    ScoreConfig,
    ScoringKeys,
)
from training.tuning.config.mixtures import GoalDPOConfig, SELMConfig, VRPOConfig, WRPOConfig
from training.tuning.config.online import (
    BestOfNConfig,
    GRPOConfig,
    NashMDConfig,
    OnlineDPOConfig,
    PPOConfig,
    RLOOConfig,
    RolloutKeys,
)
from training.tuning.config.reference_free import CPOConfig, ORPOConfig, REDIConfig, SimPOConfig
from training.tuning.config.rewards import (
    ProcessRewardModelConfig,
    RewardModelConfig,
)
from training.tuning.config.shared import (
    PRIMARY,
    BestKeys,
    Config,
    EarlyStopConfig,
    LoraConfig,
    PairKeys,
    PairRule,
    TieModel,
    TieRule,
    TrainConfig,
    VoteKeys,
)
from training.tuning.config.text import (
    SampleKeys,
    TextTrainConfig,
)
from training.tuning.config.token_level import TDPOConfig
from training.tuning.config.unpaired import CoPGConfig, KTOConfig, ScoreKeys, UFTConfig

__all__ = [
    "PRIMARY",
    "AdjointMatchingConfig",
    "AdvGRPOConfig",
    "BestKeys",
    "BestOfNConfig",
    "BetaScheduleKeys",
    "CPOConfig",
    "CRDConfig",
    "CoPGConfig",
    "Config",
    "D3POConfig",
    "DDPOConfig",
    "DPOConfig",
    "DPOKConfig",
    "DiffusionDPOConfig",
    "DiffusionKTOConfig",
    "DiffusionNFTConfig",
    "DiffusionSharpeningConfig",
    "DistillationConfig",
    "DraftConfig",
    "EarlyRewardModelConfig",
    "EarlyStopConfig",
    "EvaluateConfig",
    "FlowGRPOConfig",
    "ForwardConfig",
    "GRPOConfig",
    "GenerateConfig",
    "GoalDPOConfig",
    "ImageDirectConfig",
    "ImageEditConfig",
    "ImageEvaluateConfig",
    "ImageGenerateConfig",
    "ImageOnlineConfig",
    "ImageReferenceKeys",
    "ImageRewardModelConfig",
    "ImageSFTConfig",
    "ImageScoreConfig",
    "ImageTrainConfig",
    "KTOConfig",
    "LoraConfig",
    "NashMDConfig",
    "ORPOConfig",
    "OnlineDPOConfig",
    "PPOConfig",
    "PairKeys",
    "PairRule",
    "PersonalDPOConfig",
    "ProbeKeys",
    "ProcessRewardModelConfig",
    "R0Config",
    "REDIConfig",
    "RGLCDConfig",
    "RLOOConfig",
    "ReFLConfig",
    "RewardModelConfig",
    "RolloutKeys",
    "SELMConfig",
    "SFTConfig",
    "SRPOConfig",
    "SampleKeys",
    "SamplingKeys",
    "ScoreConfig",
    "ScoreKeys",
    "ScoringKeys",
    "SePPOConfig",
    "SelfNPOConfig",
    "SimPOConfig",
    "TDPOConfig",
    "TextTrainConfig",
    "TieModel",
    "TieRule",
    "TimestepKeys",
    "TrainConfig",
    "UFTConfig",
    "VARDConfig",
    "VRPOConfig",
    "VoteKeys",
    "WRPOConfig",
    "WindowKeys",
]
