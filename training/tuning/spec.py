"""``run.json``: what a run is, checked."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.tuning.config import Config
from training.tuning.errors import BadInput
from training.tuning.registry import Method, get_method
from training.tuning.rewards.spec import BadReward, RewardEntry, parse_rewards

SAMPLE = 1 << 20  # bytes


class DataInfo(BaseModel):
    """What the card says about the data, when whoever made the run directory knows more than the files."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str | None = None
    judgements: int | None = None
    annotators: int | None = None
    groups: int | None = None
    project: str | None = None
    base_name: str | None = Field(None, description="how people call the base, where it lies in a folder")


class RunSpec(BaseModel):
    """``run.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    method: str
    config: dict[str, Any] = Field(default_factory=dict)
    base: str | None = None
    reward: list[dict[str, Any]] | None = None
    data: DataInfo = DataInfo()
    seed: int = Field(0, ge=0, lt=2**63)


def read_spec(path: Path) -> RunSpec:
    """``run.json``, checked."""
    try:
        spec = RunSpec.model_validate(json.loads(path.read_text(encoding="utf-8")))
        get_method(spec.method)
    except FileNotFoundError:
        raise BadInput("the file is missing", file=path) from None
    except json.JSONDecodeError as error:
        raise BadInput(f"not JSON: {error.msg}", file=path, line=error.lineno) from None
    except ValidationError as error:
        raise _first_error(error, file=path) from None
    except KeyError as error:
        raise BadInput(str(error.args[0]), file=path, field="method") from None
    return spec


def parse_config(method: Method, spec: RunSpec, path: Path) -> Config:
    """The method's own config from ``run.json``. What a method cannot use is an error."""
    try:
        return method.config.model_validate(spec.config)
    except ValidationError as error:
        raise _first_error(error, file=path, prefix="config.") from None


def parse_reward(method: Method, spec: RunSpec, path: Path) -> list[RewardEntry]:
    """The ``reward`` list, checked; empty if there is none and the method needs none."""
    if spec.reward is not None and method.reward == "none":
        raise BadInput(f"{method.name} takes no reward", file=path, field="reward")
    if not spec.reward and method.reward == "required":
        raise BadInput(f"{method.name} needs a list of rewards", file=path, field="reward")
    try:
        return parse_rewards(spec.reward or [], modality=method.modality)
    except BadReward as error:
        raise BadInput(error.message, file=path, field=error.field) from None


def _first_error(error: ValidationError, *, file: Path, prefix: str = "") -> BadInput:
    first = error.errors()[0]
    field = prefix + ".".join(str(part) for part in first["loc"])
    message = (
        "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    )
    return BadInput(message, file=file, field=field.rstrip("."))


def identity_of(base: str | None) -> Any:
    """What tells one base from another, wherever it lies: its weight files, or its hub id.

    Of each file the size and a hash of its ends and its middle: files of many gigabytes are not read for it,
    and those of another training of the same shapes differ there.
    """
    if base is None or not Path(base).is_dir():
        return base
    return [(path.name, *_sampled(path)) for path in sorted(Path(base).rglob("*.safetensors"))]


def _sampled(path: Path) -> tuple[int, str]:
    size, found = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        for at in (0, size // 2, size - SAMPLE):
            file.seek(max(0, at))
            found.update(file.read(SAMPLE))
    return size, found.hexdigest()
