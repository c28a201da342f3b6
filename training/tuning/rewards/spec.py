"""The ``reward`` list of ``run.json``: what may stand in it. Torch-free, so that web pages can check it.

An entry names one source (``model``: a folder with a reward model, or a tuned policy, whose log-ratio to
its reference is then the score; ``rule``: a rule of ``rules.py``, with its argument after a colon;
``python``: ``module:function``), and says how its score enters the sum:

    total = Σ weight · gate(transform(score))

With ``credit`` it is the tokens of an answer that are scored, and the sum is over them too. Of pictures, with
``contrast`` the score is a share among prompts, and with ``ask`` the answer of a vision-language model.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from training.tuning.config.shared import Config
from training.tuning.rewards.asking import Ask, Contrast
from training.tuning.rewards.credit import SCALED, Credit
from training.tuning.rewards.rules import find_rule

Modality = Literal["text", "image"]
SOURCES = ("model", "rule", "python")


class Sigmoid(Config):
    """σ(scale · r): bounded between 0 and 1."""

    name: Literal["sigmoid"]
    scale: float = Field(1.0, gt=0)


class LogSigmoid(Config):
    """log σ(scale · r): bounded above, so that no single reward can buy everything."""

    name: Literal["log_sigmoid"]
    scale: float = Field(1.0, gt=0)


class Clip(Config):
    """min(max(r, low), high)."""

    name: Literal["clip"]
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low is None and self.high is None:
            raise ValueError('clip needs "low", "high" or both')
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low must not be above high")
        return self


class Affine(Config):
    """scale · r + shift."""

    name: Literal["affine"]
    scale: float = 1.0
    shift: float = 0.0


class Standardise(Config):
    """(r − mean) / standard deviation over what is scored at once: sources of different scales add up."""

    name: Literal["standardise"]


class SigmoidCentred(Config):
    """PAR (arXiv:2502.18770): the mean over reference answers of σ(scale · (r − r_ref))."""

    name: Literal["sigmoid_centred"]
    scale: float = Field(1.0, gt=0)


class LogSigmoidCentred(Config):
    """LSC (arXiv:2402.00742): log σ(r − r_ref), r_ref a percentile of the reference answers' scores."""

    name: Literal["log_sigmoid_centred"]
    percentile: float = Field(85.0, ge=0, le=100)


class Aggregate(Config):
    """How an ensemble's members become one score. ``penalty`` is λ of mean − λ · variance (or deviation)."""

    name: Literal["aggregate"]
    how: Literal["mean", "min", "median", "mean_variance", "mean_std"]
    penalty: float = Field(0.5, ge=0)


class Attributes(Config):
    """The weighted sum of a model's attributes, weights in the model's order."""

    name: Literal["attributes"]
    weights: list[float] = Field(min_length=1)


Transform = Annotated[
    Sigmoid
    | LogSigmoid
    | Clip
    | Affine
    | Standardise
    | SigmoidCentred
    | LogSigmoidCentred
    | Aggregate
    | Attributes,
    Field(discriminator="name"),
]
CENTRED = (SigmoidCentred, LogSigmoidCentred)
REDUCING = (Aggregate, Attributes)
ONE_BY_ONE = (Sigmoid, LogSigmoid, Clip, Affine)


class Threshold(Config):
    """The entry counts only where the score of another entry lies in a range; elsewhere ``otherwise``."""

    kind: Literal["threshold"] = "threshold"
    entry: int = Field(ge=0)
    least: float | None = None
    most: float | None = None
    otherwise: float = 0.0

    @model_validator(mode="after")
    def _has_a_limit(self) -> Self:
        if self.least is None and self.most is None:
            raise ValueError('a gate needs "least", "most" or both')
        return self


class Constraint(Config):
    """The mean score shall be at least ``least``; the weight is a multiplier that grows while it is not.

    λ ← max(0, λ + rate · (least − mean score)) after each batch, from λ = ``weight``, and the others' sum is
    divided by 1 + λ (Safe RLHF, arXiv:2310.12773).
    """

    kind: Literal["constraint"]
    least: float
    rate: float = Field(0.05, gt=0)


def _gate_kind(value: Any) -> Any:
    return value.get("kind", "threshold") if isinstance(value, dict) else getattr(value, "kind", None)


Gate = Annotated[
    Annotated[Threshold, Tag("threshold")] | Annotated[Constraint, Tag("constraint")],
    Discriminator(_gate_kind),
]


class RewardEntry(Config):
    """One source and how its score enters the sum."""

    model: str | None = Field(None, min_length=1)
    rule: str | None = Field(None, min_length=1)
    python: str | None = Field(None, pattern=r"^[\w.]+:\w+$")
    weight: float = 1.0
    transform: list[Transform] = Field(default_factory=list)
    gate: Gate | None = None
    credit: Credit | None = None
    annotator: str | None = Field(None, min_length=1)
    contrast: Contrast | None = None
    ask: Ask | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """``"transform": "sigmoid"`` is ``[{"name": "sigmoid"}]``, null is none, and one needs no list.

        ``"credit": "tokens"`` is ``{"name": "tokens"}``.
        """
        if isinstance(value, dict) and isinstance(value.get("credit"), str):
            value = {**value, "credit": {"name": value["credit"]}}
        if not isinstance(value, dict) or "transform" not in value:
            return value
        given = value["transform"]
        steps = [] if given is None else given if isinstance(given, list) else [given]
        return {**value, "transform": [{"name": one} if isinstance(one, str) else one for one in steps]}

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(getattr(self, name) is not None for name in SOURCES) != 1:
            raise ValueError('must be an object with one of "model", "rule" and "python"')
        if any(isinstance(step, REDUCING) for step in self.transform[1:]):
            raise ValueError("aggregate and attributes come first: what follows works on one score")
        if self.annotator is not None and (self.model is None or self.credit is not None):
            raise ValueError("an annotator belongs to a model of people's tastes, without credit")
        if self.transform and isinstance(self.transform[0], REDUCING) and self.model is None:
            raise ValueError("aggregate and attributes need a model: rules and functions give one score")
        if isinstance(self.gate, Constraint) and self.weight < 0:
            raise ValueError("a constraint's weight is its first multiplier, which is not negative")
        return self

    @model_validator(mode="after")
    def _credit_has_a_place(self) -> Self:
        if self.credit is None:
            return self
        if self.gate is not None:
            raise ValueError("credit and gate do not go together")
        if self.model is None and self.credit.name != "segments":
            raise ValueError(f'the credit "{self.credit.name}" needs a model')
        if self.transform and not isinstance(self.credit, SCALED):
            raise ValueError(f'the credit "{self.credit.name}" gives 1, -1 or 0 and takes no transform')
        if not all(isinstance(step, ONE_BY_ONE) for step in self.transform):
            raise ValueError(
                "with credit the scores of an answer's parts are transformed one by one: sigmoid, "
                "log_sigmoid, clip and affine do that"
            )
        return self

    @model_validator(mode="after")
    def _models_are_asked(self) -> Self:
        for key in ("contrast", "ask"):
            if getattr(self, key) is not None and (self.model is None or self.credit or self.annotator):
                raise ValueError(f"{key} belongs to a model of pictures, without credit and annotator")
        if self.contrast is not None and self.ask is not None and "{prompt}" not in self.ask.question:
            raise ValueError('a contrast between prompts needs a question with "{prompt}"')
        return self

    @property
    def label(self) -> str:
        """How metrics name the entry."""
        return self.rule or self.python or (self.model or "").rstrip("/").rsplit("/", 1)[-1]

    @property
    def needs_references(self) -> bool:
        """Whether a transform compares with answers of the reference policy."""
        return any(isinstance(step, CENTRED) for step in self.transform)


class BadReward(ValueError):
    """Something in a ``reward`` list is wrong; ``field`` is its path, as in ``reward.0.gate.entry``."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        self.message = message
        super().__init__(f"{field}: {message}")


def parse_rewards(entries: Sequence[Any], *, modality: Modality) -> list[RewardEntry]:
    """The entries, checked as far as that goes without opening a model. Raises BadReward."""
    parsed = []
    for number, entry in enumerate(entries):
        where = f"reward.{number}"
        if not isinstance(entry, dict) or len(entry.keys() & set(SOURCES)) != 1:
            raise BadReward(where, 'must be an object with one of "model", "rule" and "python".')
        try:
            parsed.append(RewardEntry.model_validate(entry))
        except ValidationError as error:
            raise _bad(where, error) from None
        for key in ("contrast", "ask"):
            if modality == "text" and getattr(parsed[-1], key) is not None:
                raise BadReward(f"{where}.{key}", "is for pictures.")
        if parsed[-1].rule is not None:
            try:
                find_rule(parsed[-1].rule, modality=modality)
            except ValueError as error:
                raise BadReward(f"{where}.rule", str(error)) from None
    for number, one in enumerate(parsed):
        if isinstance(one.gate, Threshold) and (one.gate.entry >= len(parsed) or one.gate.entry == number):
            raise BadReward(f"reward.{number}.gate.entry", "names no other entry; they count from 0.")
    return parsed


def _bad(where: str, error: ValidationError) -> BadReward:
    first = error.errors()[0]
    # Discriminated unions put the name of the branch into the path.
    branches = {"threshold", "constraint", "tokens", "segments", "correction", "critique"} | {
        kind.model_fields["name"].annotation.__args__[0]  # type: ignore[union-attr]
        for kind in (*CENTRED, *REDUCING, Sigmoid, LogSigmoid, Clip, Affine, Standardise)
    }
    path = [str(part) for part in first["loc"] if part not in branches]
    message = "unknown key." if first["type"] == "extra_forbidden" else first["msg"]
    return BadReward(".".join([where, *path]), message.removeprefix("Value error, "))
