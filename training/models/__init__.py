"""The rows of training: runs and what they make, matches, the arena, rounds."""

from training.models.arena import Arena, Contender, Duel, DuelTurn
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
    "Arena",
    "BaseModel",
    "Checkpoint",
    "Contender",
    "Duel",
    "DuelTurn",
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
