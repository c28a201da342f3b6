"""``reward.json`` of a reward model's result: what its outputs are, and how they become a score. Torch-free.

normalised = scale · (outputs − shift)          one number of each for every output
score      = by ``kind``:  scalar      the one output
                           ensemble    ``aggregate`` of the members' outputs
                           attributes  the sum of ``weights`` · outputs
                           preference  mean probability of being preferred to the prompt's others
                           personal    what ``taste`` and ``personal.safetensors`` make of the outputs for
                                       somebody, or under a prompt
                           steps       ``step_rule`` of the outputs at the ends of the steps (or of other
                                       ``segments``), members averaged
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from training.tuning.config.shared import Config
from training.tuning.errors import BadInput
from training.tuning.rewards.spec import Aggregate

FILE = "reward.json"
RewardKind = Literal["scalar", "ensemble", "attributes", "preference", "personal", "steps"]
Condition = Literal["none", "context", "annotator", "annotator_group"]
SegmentKind = Literal["steps", "sentences", "clauses"]


class Taste(Config):
    """How outputs become a score for somebody: ``count`` prototypes or rewards are mixed, or a latent has so
    many numbers. ``users`` are known by name, in the order of their weights. With ``references`` a latent's
    rewards are scaled by so many answers.
    """

    kind: Literal["ideal_point", "mixture", "variational"]
    count: int = Field(ge=1)
    users: list[str] = Field(default_factory=list)
    references: int = Field(0, ge=0)


class RewardInfo(Config):
    """The file; a folder without one holds a plain reward model of one output."""

    kind: RewardKind = "scalar"
    outputs: int = Field(1, ge=1)
    names: list[str] = Field(default_factory=list)
    aggregate: Aggregate = Aggregate(name="aggregate", how="mean")
    weights: list[float] = Field(default_factory=list)
    shift: list[float] = Field(default_factory=list)
    scale: list[float] = Field(default_factory=list)
    members: list[str] = Field(default_factory=list)
    condition: Condition = "none"
    temperature: float | None = None
    step_rule: Literal["min", "product", "last"] = "min"
    segments: SegmentKind = "steps"
    link: dict[str, float | list[float]] = Field(default_factory=dict)
    taste: Taste | None = None

    @model_validator(mode="after")
    def _lengths_fit(self) -> "RewardInfo":
        for name in ("names", "weights", "shift", "scale", "members"):
            values = getattr(self, name)
            if values and len(values) != self.outputs:
                raise ValueError(f"{name} has {len(values)} entries for {self.outputs} outputs")
        return self


def read_info(folder: str | Path) -> RewardInfo | None:
    """The file in a folder, or None if there is none."""
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        return RewardInfo.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValidationError, json.JSONDecodeError) as error:
        raise BadInput(f"not what reward_model writes: {error}", file=path) from None


def write_info(folder: Path, info: RewardInfo) -> None:
    """Write the file into a folder."""
    (folder / FILE).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")
