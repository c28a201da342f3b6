"""The group row: one prompt, its candidates, and what was said about them. An unknown key is an error."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from annotation.prompts import words_of

MAX_CANDIDATES: Final = 100
MAX_SOURCE: Final = 200  # characters
PLAIN_ROW: Final = {"prompt", "candidates", "judgements", "meta"}
PLAIN_CANDIDATE: Final = {"text", "source"}
Row = dict[str, Any]


class RowError(Exception):
    """A row that cannot be imported: which field, and why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)
        self.field = field
        self.reason = reason


def check_text(value: object) -> object:
    """A text, or a list of {"role", "content"} messages, neither of them empty."""
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("is empty")
        return value
    if isinstance(value, list):
        return _check_messages(value)
    raise ValueError(f"is {describe(value)}; it must be a text or a list of messages")


def check_prompt(value: object) -> object:
    """As `check_text`; a message's content may also be parts: texts, and pictures by their names.

    Parts without a picture become the text that they are.
    """
    if not isinstance(value, list):
        return check_text(value)
    messages = [_in_parts(message, number) for number, message in enumerate(value)]
    plain = [
        message | {"content": words_of(message["content"]) or "picture"} if _has_parts(message) else message
        for message in messages
    ]
    check_text(plain)
    return messages


def _has_parts(message: object) -> bool:
    return isinstance(message, dict) and isinstance(message.get("content"), list)


def _in_parts(message: Any, number: int) -> Any:
    if not _has_parts(message):
        return message
    parts = [_check_part(part, f"message {number}") for part in message["content"]]
    if not parts:
        raise ValueError(f"message {number} is empty")
    if any(part["type"] == "image" for part in parts):
        return message | {"content": parts}
    return message | {"content": words_of(parts)}


def _check_part(part: object, where: str) -> Row:
    if not isinstance(part, dict) or part.get("type") not in ("text", "image", "image_url"):
        kind = part.get("type") if isinstance(part, dict) else describe(part)
        raise ValueError(f"{where} has a part of type {kind}; prompts are made of text and images")
    if part["type"] == "text":
        if not isinstance(part.get("text"), str):
            raise ValueError(f"{where} has a part without text")
        return {"type": "text", "text": part["text"]}
    image = part["image_url"] if part["type"] == "image_url" else part.get("image")
    image = image["url"] if isinstance(image, dict) and "url" in image else image
    try:
        return {"type": "image", "image": _check_image(image)}
    except ValueError as error:
        raise ValueError(f"{where} has a picture that {error}") from None


def describe(value: object) -> str:
    """A JSON value in words, for people who do not know Python."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"{str(value).lower()} (a boolean)"
    if isinstance(value, bytes):
        return "bytes"
    if isinstance(value, int | float):
        return f"{value!s:.30} (a number)"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object"


def _check_messages(messages: list[Any]) -> list[Any]:
    if not messages:
        raise ValueError("is an empty list")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise ValueError(f"message {number} must have `role` and `content`, and nothing else")
        if not isinstance(message["role"], str) or not message["role"]:
            raise ValueError(f"message {number} has no role")
        if not isinstance(message["content"], str) or not message["content"].strip():
            raise ValueError(f"message {number} is empty")
    return messages


def _check_at(value: object) -> str:
    """ISO 8601; without an offset it is UTC. Kept as UTC."""
    if not isinstance(value, str):
        raise ValueError("must be a time such as 2025-01-31T12:00:00+00:00")
    moment = datetime.fromisoformat(value)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment > datetime.now(UTC):
        raise ValueError("lies in the future")
    return moment.astimezone(UTC).isoformat()


def _check_image(value: object) -> object:
    """A file's name or address, a data URI, or the bytes themselves (also as `{"bytes", "path"}`)."""
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise ValueError(f"is {describe(value)}; it must be the name of a picture")
    if len(value) > 2000 and not value.startswith("data:"):
        raise ValueError("is longer than 2,000 characters")
    return value


Text = Annotated[Any, PlainValidator(check_text)]
Prompt = Annotated[Any, PlainValidator(check_prompt)]
Moment = Annotated[Any, PlainValidator(_check_at)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CandidateRow(Strict):
    text: Text = None
    image: Annotated[Any, PlainValidator(_check_image)] = None
    source: str | None = Field(None, max_length=MAX_SOURCE)

    @model_validator(mode="after")
    def _one_content(self) -> "CandidateRow":
        if (self.text is None) == (self.image is None):
            raise ValueError("must have either `text` or `image`")
        return self


Share = Annotated[int | float, Field(ge=0, le=1)]


class MarkRow(Strict):
    candidate: int = Field(ge=0)
    type: Literal["span", "box", "point", "step"]
    start: int | None = Field(None, ge=0)
    end: int | None = Field(None, ge=0)
    box: list[Share] | None = Field(None, min_length=2, max_length=4)
    point: list[Share] | None = Field(None, min_length=2, max_length=2)
    step: int | None = Field(None, ge=0)
    first_error: bool | None = None
    category: str | None = None
    severity: str | int | float | None = None


class AspectRow(Strict):
    choice: int | Literal["tie", "both_bad"]
    strength: int | None = Field(None, ge=1, le=3)


class TurnRow(Strict):
    turn: int = Field(ge=0)
    choice: int | Literal["tie", "both_bad"]


class JudgementRow(Strict):
    """Indices are canonical; `order` is what the annotator saw, left to right."""

    annotator: str = Field("import", min_length=1, max_length=140)
    annotator_group: str | None = None
    kind: Literal["regular", "gold", "repeat", "review", "qualification", "judge"] = "regular"
    order: list[int] | None = None
    choice: int | Literal["tie", "both_bad"] | None = None
    strength: int | None = Field(None, ge=1, le=3)
    ranking: list[list[int]] | None = None
    aspects: dict[str, AspectRow] | None = None
    turns: list[TurnRow] | None = None
    ratings: list[dict[str, int | float] | None] | None = None
    thumbs: list[Literal[0, 1] | None] | None = None
    tags: list[str] | None = None
    rubric: list[Row | None] | None = None
    marks: list[MarkRow] | None = None
    critique: str | None = None
    corrections: list[Any] | None = None
    context: Any = None
    template_version: int | None = Field(None, ge=1, le=2**31 - 1)
    seconds: float | None = Field(None, ge=0, allow_inf_nan=False)
    at: Moment = None


class GroupRow(Strict):
    prompt: Prompt
    candidates: list[CandidateRow] = Field(min_length=1, max_length=MAX_CANDIDATES)
    judgements: list[JudgementRow] = Field(default_factory=list, max_length=10_000)
    reference: Any = None
    meta: Row = Field(default_factory=dict)


def check_group(row: Row, *, content: str) -> Row:
    """The row in its plain form, without absent keys. Raises `RowError` with the first thing that is wrong.

    `content` is "text" or "image": what this project's candidates are.
    """
    plain = _plain_group(row) if content == "text" else None
    return _check_group(row, content=content) if plain is None else plain


def _plain_group(row: Row) -> Row | None:
    """A good row of texts that nobody has judged, as `_check_group` gives it, in a tenth of the time; None
    for every other, good or bad.
    """
    candidates, meta = row.get("candidates"), row.get("meta", {})
    if (
        not row.keys() <= PLAIN_ROW
        or not _is_plain_text(row.get("prompt"))
        or row.get("judgements", []) != []
    ):
        return None
    if type(candidates) is not list or not 1 <= len(candidates) <= MAX_CANDIDATES or type(meta) is not dict:
        return None
    for candidate in candidates:
        if type(candidate) is not dict or not candidate.keys() <= PLAIN_CANDIDATE:
            return None
        source = candidate.get("source", "")
        if not _is_plain_text(candidate.get("text")) or type(source) is not str or len(source) > MAX_SOURCE:
            return None
    texts = [candidate["text"] for candidate in candidates]
    if len(texts) > 1 and texts.count(texts[0]) == len(texts):
        return None
    return {"prompt": row["prompt"], "candidates": candidates, "judgements": [], "meta": meta}


def _is_plain_text(value: object) -> bool:
    return type(value) is str and bool(value) and not value.isspace()


def _check_group(row: Row, *, content: str) -> Row:
    try:
        group = GroupRow.model_validate(row)
    except ValidationError as error:
        raise _first_problem(error) from error
    for index, candidate in enumerate(group.candidates):
        if getattr(candidate, content) is None:
            raise RowError(f"candidates.{index}.{content}", f"is missing; this project compares {content}s")
    contents = [getattr(candidate, content) for candidate in group.candidates]
    if len(contents) > 1 and all(item == contents[0] for item in contents):
        raise RowError("candidates", "are all the same, so there is nothing to compare")
    for number, judgement in enumerate(group.judgements):
        check_indices(judgement, len(contents), f"judgements.{number}")
    _check_annotators(group.judgements)
    return group.model_dump(exclude_none=True)


def _first_problem(error: ValidationError) -> RowError:
    first = error.errors()[0]
    # Pydantic names the branch of a union in the path; a reader of the file knows no branches.
    path = [
        str(part)
        for part in first["loc"]
        if str(part) not in {"int", "str", "float"} and "[" not in str(part)
    ]
    reasons = {"missing": "is missing", "extra_forbidden": "is an unknown key; put it into `meta`"}
    reason = reasons.get(first["type"], first["msg"].removeprefix("Value error, "))
    return RowError(".".join(path), reason)


def check_indices(judgement: JudgementRow, k: int, path: str) -> None:
    """Everything that names a candidate names one of the k."""
    everything = list(range(k))
    if judgement.order is not None and sorted(judgement.order) != everything:
        raise RowError(f"{path}.order", f"must name each of the {k} candidates once")
    if isinstance(judgement.choice, int) and judgement.choice not in everything:
        raise RowError(f"{path}.choice", f"{judgement.choice} is no candidate; there are {k}")
    if judgement.ranking is not None:
        ranked = [index for tier in judgement.ranking for index in tier]
        if len(set(ranked)) != len(ranked) or not set(ranked) <= set(everything):
            raise RowError(f"{path}.ranking", f"must name candidates from 0 to {k - 1}, each at most once")
    for name, aspect in (judgement.aspects or {}).items():
        if isinstance(aspect.choice, int) and aspect.choice not in everything:
            raise RowError(f"{path}.aspects.{name}.choice", f"{aspect.choice} is no candidate; there are {k}")
    for number, turn in enumerate(judgement.turns or ()):
        if isinstance(turn.choice, int) and turn.choice not in everything:
            raise RowError(f"{path}.turns.{number}.choice", f"{turn.choice} is no candidate; there are {k}")
    for name in ("ratings", "thumbs", "corrections"):
        values = getattr(judgement, name)
        if values is not None and len(values) != k:
            raise RowError(f"{path}.{name}", f"has {len(values)} entries for {k} candidates")
    for number, mark in enumerate(judgement.marks or ()):
        if mark.candidate not in everything:
            raise RowError(
                f"{path}.marks.{number}.candidate", f"{mark.candidate} is no candidate; there are {k}"
            )


def _check_annotators(judgements: list[JudgementRow]) -> None:
    seen: set[tuple[str, str]] = set()
    for number, judgement in enumerate(judgements):
        key = (judgement.annotator, judgement.kind)
        if key in seen:
            who = f"{judgement.annotator!r} has a second {judgement.kind} judgement of this comparison"
            raise RowError(f"judgements.{number}.annotator", who)
        seen.add(key)
