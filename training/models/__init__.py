"""The rows of training: runs and what they make, matches, rounds."""

from training.models.matches import Match, MatchComparison
from training.models.rounds import Promotion, Round, RoundStep, Schedule
from training.models.runs import (
    GENERATORS,
    JOBS,
    BaseModel,
    Checkpoint,
    HubUpload,
    Metric,
    ResumePoint,
    Run,
    RunQuerySet,
    Snapshot,
)

__all__ = [
    "GENERATORS",
    "JOBS",
    "BaseModel",
    "Checkpoint",
    "HubUpload",
    "Match",
    "MatchComparison",
    "Metric",
    "Promotion",
    "ResumePoint",
    "Round",
    "RoundStep",
    "Run",
    "RunQuerySet",
    "Schedule",
    "Snapshot",
]
