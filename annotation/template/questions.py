"""The kinds of question that a task template combines: pydantic models, also the JSON schema of its form."""

from typing import Annotated, Any, Final, Literal, Self

from django.utils.translation import gettext
from django.utils.translation import gettext_noop as _
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

TIE, BOTH_BAD = "tie", "both_bad"
MOST_RANKED: Final = 9  # candidates in a ranking
MOST_STEPS_OF_A_SCALE: Final = 11
MOST_OPTIONS: Final = 50


def check_words(text: str) -> str:
    """What JSON can say but Postgres cannot keep."""
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(gettext("holds a character that cannot be stored"))
    return text


Words = Annotated[str, AfterValidator(check_words)]
Wording = Annotated[Words, Field(min_length=1, max_length=500, title=_("The question"))]
Name = Annotated[
    str,
    Field(
        pattern=r"^\w[\w-]*$",
        max_length=64,
        title=_("Name"),
        description=_("Letters, digits, _ and -. The key under which answers are stored; do not change it."),
    ),
]
Title = Annotated[Words, Field(max_length=200, title=_("Title"), description=_("What annotators read."))]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Option(Part):
    """Something to choose by its name; without a title the name is shown."""

    name: Name
    title: Title = ""

    @model_validator(mode="before")
    @classmethod
    def _titled(cls, value: Any) -> Any:
        """The name in words stands in for a title that is left out."""
        if isinstance(value, dict) and isinstance(value.get("name"), str) and not value.get("title"):
            words = value["name"].replace("_", " ").strip()
            return value | {"title": words[:1].upper() + words[1:]}
        return value


def _check_names(options: list[Any]) -> list[Any]:
    names = [option.name for option in options]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            gettext("names %(names)s twice; each name stands for one of them") % {"names": ", ".join(twice)}
        )
    return options


Named = AfterValidator(_check_names)
Options = Annotated[list[Option], Field(min_length=1, max_length=MOST_OPTIONS), Named]
FewOptions = Annotated[list[Option], Field(max_length=MOST_OPTIONS), Named]


class RatedAspect(Option):
    """One scale of whole numbers from `min` to `max`; `labels` name its steps, or its two ends."""

    scale: Literal["likert", "stars"] = Field("likert", title=_("Shown as"))
    min: int = Field(1, ge=-100, le=100, title=_("Lowest"))
    max: int = Field(5, ge=-100, le=100, title=_("Highest"))
    labels: list[Title] = Field(
        default_factory=list,
        title=_("Labels"),
        description=_("None, one for each step, or two for the ends of the scale."),
    )

    @model_validator(mode="after")
    def _a_scale(self) -> Self:
        steps = self.max - self.min + 1
        if not 2 <= steps <= MOST_STEPS_OF_A_SCALE:
            raise ValueError(
                gettext("runs from %(min)s to %(max)s; a scale has 2 to %(most)s steps")
                % {"min": self.min, "max": self.max, "most": MOST_STEPS_OF_A_SCALE}
            )
        if self.scale == "stars" and self.min not in (0, 1):
            raise ValueError(gettext("stars are counted from 0 or 1"))
        if len(self.labels) not in (0, 2, steps):
            raise ValueError(
                gettext("has %(n)s labels for %(steps)s steps; give none, 2 or %(steps)s")
                % {"n": len(self.labels), "steps": steps}
            )
        return self


class Criterion(Part):
    """One line of a rubric, met by a candidate or not. What counts against it has a negative weight."""

    name: Name
    text: Words = Field(min_length=1, max_length=500, title=_("Criterion"))
    weight: float = Field(1.0, ge=-100, le=100, allow_inf_nan=False, title=_("Weight"))


Criteria = Annotated[list[Criterion], Field(min_length=1, max_length=MOST_OPTIONS), Named]


class Question(Part):
    """What all kinds share. `required`: nobody gets on without answering it, where it can be answered."""

    required: bool = Field(True, title=_("Must be answered"))


class ChoiceQuestion(Question):
    """Which candidate is best; also how much better, and which is worst."""

    type: Literal["choice"] = "choice"
    text: Wording = _("Which answer is better?")
    strength: bool = Field(True, title=_("Ask how much better: much, plainly or slightly"))
    tie: bool = Field(True, title=_("Offer “tie”"))
    both_bad: bool = Field(True, title=_("Offer “both bad”"))
    worst: bool = Field(False, title=_("Ask also for the worst (best–worst)"))


class AspectsQuestion(Question):
    """Which candidate is better in each of several respects."""

    type: Literal["aspects"] = "aspects"
    text: Wording = _("Which answer is better in each respect?")
    aspects: Options = Field(title=_("Aspects"))
    strength: bool = Field(True, title=_("Ask how much better: much, plainly or slightly"))
    tie: bool = Field(True, title=_("Offer “tie”"))


class RankingQuestion(Question):
    """All candidates in order, best first; nine at most."""

    type: Literal["ranking"] = "ranking"
    text: Wording = _("Put the answers in order, the best first.")
    ties: bool = Field(True, title=_("Candidates may share a rank"))
    partial: bool = Field(False, title=_("Candidates may be left out"))


class RatingsQuestion(Question):
    """Numbers on scales, for each candidate."""

    type: Literal["ratings"] = "ratings"
    text: Wording = _("How good is each answer?")
    aspects: Annotated[list[RatedAspect], Field(min_length=1, max_length=MOST_OPTIONS), Named] = Field(
        title=_("Scales")
    )


class ThumbsQuestion(Question):
    """Good or not, for each candidate."""

    type: Literal["thumbs"] = "thumbs"
    text: Wording = _("Is the answer good?")


class RubricQuestion(Question):
    """Criteria that each candidate meets or not."""

    type: Literal["rubric"] = "rubric"
    text: Wording = _("Which criteria does each answer meet?")
    criteria: Criteria = Field(title=_("Criteria"))


class TagsQuestion(Question):
    """Reasons, from a list."""

    type: Literal["tags"] = "tags"
    text: Wording = _("Why?")
    required: bool = Field(False, title=_("Must be answered"))
    options: Options = Field(title=_("Reasons"))


class CritiqueQuestion(Question):
    """Free text."""

    type: Literal["critique"] = "critique"
    text: Wording = _("What is good or bad about the answers?")
    required: bool = Field(False, title=_("Must be answered"))
    min_length: int = Field(0, ge=0, le=100_000, title=_("Fewest characters"))
    max_length: int = Field(5000, ge=1, le=100_000, title=_("Most characters"))

    @model_validator(mode="after")
    def _some_length(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError(
                gettext("wants at least %(least)s characters and at most %(most)s")
                % {"least": self.min_length, "most": self.max_length}
            )
        return self


class CorrectionQuestion(Question):
    """The answer as it should be. Required: of at least one candidate."""

    type: Literal["correction"] = "correction"
    text: Wording = _("Write the answer as it should be.")
    required: bool = Field(False, title=_("Must be answered"))


MarkKind = Literal["span", "box", "point", "step"]
MARKS_OF: Final = {"text": ("span", "step"), "image": ("box", "point")}


class MarksQuestion(Question):
    """Places in the candidates. An empty list says that there is nothing to mark; it is an answer."""

    type: Literal["marks"] = "marks"
    text: Wording = _("Mark what is wrong.")
    required: bool = Field(False, title=_("Must be answered"))
    kinds: list[MarkKind] = Field(min_length=1, title=_("What is marked"))
    categories: FewOptions = Field(default_factory=list, title=_("Categories"))
    severities: FewOptions = Field(default_factory=list, title=_("Severities"))

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.kinds)) != len(self.kinds):
            raise ValueError(gettext("names a kind of mark twice"))
        return self


class TurnsQuestion(Question):
    """Which candidate is better at each of the assistant's turns in a chat."""

    type: Literal["turns"] = "turns"
    text: Wording = _("Which answer is better at each turn?")
    tie: bool = Field(True, title=_("Offer “tie”"))


class ContextQuestion(Part):
    """Shown with the task and stored with the judgement: this text, then the comparison's `meta.context`."""

    type: Literal["context"] = "context"
    text: Words = Field("", max_length=10_000, title=_("Principle or context"))


AnyQuestion = Annotated[
    ChoiceQuestion
    | AspectsQuestion
    | RankingQuestion
    | RatingsQuestion
    | ThumbsQuestion
    | RubricQuestion
    | TagsQuestion
    | CritiqueQuestion
    | CorrectionQuestion
    | MarksQuestion
    | TurnsQuestion
    | ContextQuestion,
    Field(discriminator="type"),
]

# Under which key of a request, of `Judgement.answers` and of a group row the answer stands.
KEYS: Final = {
    "choice": "choice",
    "aspects": "aspects",
    "ranking": "ranking",
    "ratings": "ratings",
    "thumbs": "thumbs",
    "rubric": "rubric",
    "tags": "tags",
    "critique": "critique",
    "correction": "corrections",
    "marks": "marks",
    "turns": "turns",
}
COMPARING: Final = frozenset({"choice", "aspects", "ranking", "turns"})  # these need two candidates
