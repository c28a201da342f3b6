"""The shapes of answers in requests, by key, whatever the template asks: also their JSON schema."""

from typing import Annotated, Any, Final

from django.utils.translation import gettext as _
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    WithJsonSchema,
)

from annotation.formats.schema import check_text
from annotation.numbers import number
from annotation.template.questions import BOTH_BAD, TIE, MarkKind, check_words
from annotation.template.texts import plain_text

MOST_MARKS: Final = 1000
LONGEST_CORRECTION: Final = 50_000  # characters


def _position_or(*words: str) -> tuple[PlainValidator, WithJsonSchema]:
    """Checks and describes a presented position, or one of the words."""

    def check(value: object) -> object:
        if value in words or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        offered = ", ".join(f'"{word}"' for word in words)
        raise ValueError(_("must be a position (0, 1, …) or %(offered)s") % {"offered": offered})

    schema = {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "enum": list(words)}]}
    return PlainValidator(check), WithJsonSchema(schema)


def _check_correction(value: object) -> object:
    text = check_text(value)
    words = plain_text(text)  # type: ignore[arg-type]
    if len(words) > LONGEST_CORRECTION:
        raise ValueError(
            _("has %(n)s characters; %(most)s at most")
            % {"n": number(len(words)), "most": number(LONGEST_CORRECTION)}
        )
    for part in [words] if isinstance(text, str) else [words, *(turn["role"] for turn in text)]:  # type: ignore
        check_words(part)
    return text


def _nothing_if_null(value: object) -> object:
    return {} if value is None else value


Position = Annotated[int, Field(ge=0, strict=True)]
Choice = Annotated[Any, *_position_or(TIE, BOTH_BAD)]
ChoiceOrTie = Annotated[Any, *_position_or(TIE)]
Strength = Annotated[int, Field(ge=1, le=3, strict=True)]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]
Correction = Annotated[
    Any,
    PlainValidator(_check_correction),
    WithJsonSchema({"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}),
]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class AspectAnswer(Shape):
    choice: ChoiceOrTie
    strength: Strength | None = None


class Mark(Shape):
    """A place in a candidate. `start` and `end` count characters of its text, a step from zero."""

    candidate: Position
    type: MarkKind
    start: Position | None = None
    end: Position | None = None
    box: list[Share] | None = Field(
        None, min_length=4, max_length=4, description="left, top, width, height as shares of the picture"
    )
    point: list[Share] | None = Field(None, min_length=2, max_length=2, description="from left, from top")
    step: Position | None = None
    category: str | None = None
    severity: str | None = None
    first_error: Annotated[bool, Field(strict=True)] = False


class TurnAnswer(Shape):
    turn: Position
    choice: ChoiceOrTie


Whole = Annotated[int, Field(strict=True)]
Yes = Annotated[bool, Field(strict=True)]
Thumb = Annotated[int, Field(ge=0, le=1, strict=True)]
ANSWERS: Final[dict[str, TypeAdapter[Any]]] = {
    "choice": TypeAdapter(Choice),
    "strength": TypeAdapter(Strength),
    "aspects": TypeAdapter(dict[str, AspectAnswer]),
    "ranking": TypeAdapter(list[Annotated[list[Position], Field(min_length=1)]]),
    "ratings": TypeAdapter(list[Annotated[dict[str, Whole], BeforeValidator(_nothing_if_null)]]),
    "thumbs": TypeAdapter(list[Thumb | None]),
    "rubric": TypeAdapter(list[Annotated[dict[str, Yes], BeforeValidator(_nothing_if_null)]]),
    "tags": TypeAdapter(list[str]),
    "critique": TypeAdapter(Annotated[str, Field(strict=True), AfterValidator(check_words)]),
    "corrections": TypeAdapter(list[Correction | None]),
    "marks": TypeAdapter(Annotated[list[Mark], Field(max_length=MOST_MARKS)]),
    "turns": TypeAdapter(list[TurnAnswer]),
}
SAID_OF: Final = {
    "choice": 'the best candidate, "tie" or "both_bad"',
    "strength": "how much better: 1 slightly, 2 plainly, 3 much",
    "aspects": "a choice for each aspect, with its strength",
    "ranking": "ranks, best first; candidates of one rank are equal",
    "ratings": "an object for each candidate: a number on each scale",
    "thumbs": "1, 0 or null for each candidate",
    "rubric": "an object for each candidate: whether it meets each criterion",
    "tags": "the names of the reasons",
    "critique": "free text",
    "corrections": "for each candidate the answer as it should be, or null",
    "marks": "places in candidates",
    "turns": "a choice at each of the assistant's turns",
}


def answer_schema(key: str) -> dict[str, Any]:
    """JSON schema of the answer under this key, complete in itself."""
    return inlined(ANSWERS[key].json_schema()) | {"description": SAID_OF[key]}


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema of pydantic's without references; nulls and constants as OpenAPI 3.0 says them."""
    definitions = schema.get("$defs", {})

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return walk(definitions[value["$ref"].rpartition("/")[2]])
        kept = {name: walk(item) for name, item in value.items() if name not in ("$defs", "discriminator")}
        if "const" in kept:
            kept["enum"] = [kept.pop("const")]
        branches = [branch for branch in kept.get("anyOf", ()) if branch != {"type": "null"}]
        if len(branches) == 1 and len(kept["anyOf"]) == 2:
            rest = {name: item for name, item in kept.items() if name not in ("anyOf", "default")}
            return branches[0] | rest | {"nullable": True}
        return kept

    return walk(schema)
