"""Rows of data: the group, and the public preference formats that become one. Torch-free.

``load_groups`` reads a JSONL file and checks every row; the first thing wrong is a :class:`BadInput` that
names file, line and field. Line numbers start at 1.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.tuning.errors import BadInput

MAX_PIXELS = 50_000_000
Modality = Literal["text", "image"]
Kind = Literal["regular", "gold", "repeat", "review", "qualification", "judge"]


class Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPart(Row):
    """Words of a message in parts."""

    type: Literal["text"]
    text: str


class ImagePart(Row):
    """A picture of a message in parts: a file name relative to ``data/media/``; ``path`` is where it is."""

    type: Literal["image"]
    image: str = Field(min_length=1)
    path: Path | None = Field(None, exclude=True)


class Message(Row):
    """One turn of a chat: words, or, in prompts for vision-language models, parts of words and pictures."""

    role: str = Field(min_length=1)
    content: str | list[TextPart | ImagePart]

    @property
    def words(self) -> str:
        """What it says, without pictures."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    def opened_with(self, words: str) -> "Message":
        """The message with words before all else."""
        if isinstance(self.content, str):
            return Message(role=self.role, content=words + self.content)
        return Message(role=self.role, content=[TextPart(type="text", text=words), *self.content])


Text = str | list[Message]


def pictures_of(prompt: Text) -> list[ImagePart]:
    """The pictures of a prompt, in order."""
    contents = [] if isinstance(prompt, str) else [message.content for message in prompt]
    return [
        part
        for content in contents
        if not isinstance(content, str)
        for part in content
        if isinstance(part, ImagePart)
    ]


class Candidate(Row):
    """One answer: a text or messages, or an image's file name relative to ``data/media/``."""

    text: Text | None = None
    image: str | None = None
    source: str | None = None

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if (self.text is None) == (self.image is None):
            raise ValueError('a candidate has either "text" or "image"')
        if isinstance(self.text, list) and not all(isinstance(turn.content, str) for turn in self.text):
            raise ValueError("an answer is words; only prompts hold pictures")
        if self.text is not None and not plain_text(self.text).strip():
            raise ValueError("the answer is empty; give it content or leave the row out")
        if self.image == "":
            raise ValueError("the image's file name is empty")
        return self


class Mark(Row):
    """A place in a candidate: a span of characters, a step, or a box or point in 0..1 of width and height.

    A step has its number, its characters, and ``first_error``: the answer is right before the step where this
    is true. Steps without a mark are not labelled.
    """

    candidate: int = Field(ge=0)
    type: Literal["span", "box", "point", "step"]
    start: int | None = Field(None, ge=0)
    end: int | None = Field(None, ge=0)
    box: list[float] | None = None
    point: list[float] | None = None
    step: int | None = Field(None, ge=0)
    first_error: bool | None = None
    category: str | None = None
    severity: int | float | str | None = None


class AspectChoice(Row):
    """Which candidate is better in one respect."""

    choice: int | Literal["tie", "both_bad"]
    strength: int | None = Field(None, ge=1, le=3)


class TurnChoice(Row):
    """Which candidate is better at one of the assistant's turns, counted from 0."""

    turn: int = Field(ge=0)
    choice: int | Literal["tie", "both_bad"]


class Judgement(Row):
    """What one annotator said about the candidates. Indices are canonical: positions in ``candidates``."""

    annotator: str | int | None = None
    annotator_group: str | None = None
    kind: Kind = "regular"
    order: list[int] | None = None
    choice: int | Literal["tie", "both_bad"] | None = None
    strength: int | None = Field(None, ge=1, le=3)
    aspects: dict[str, AspectChoice] | None = None
    ranking: list[list[int]] | None = None
    ratings: list[dict[str, float | str | None] | None] | None = None
    thumbs: list[Literal[0, 1] | None] | None = None
    tags: list[str] | None = None
    rubric: list[dict[str, Any] | None] | None = None
    marks: list[Mark] | None = None
    critique: str | None = None
    corrections: list[Text | None] | None = None
    turns: list[TurnChoice] | None = None
    context: Any = None
    template_version: int | str | None = None
    seconds: float | None = None
    at: str | None = None


class Group(Row):
    """One prompt, its candidates, and what people said about them. ``line`` is where it was read."""

    prompt: Text
    candidates: list[Candidate] = Field(default_factory=list)
    judgements: list[Judgement] = Field(default_factory=list)
    reference: Any = None
    meta: dict[str, Any] = Field(default_factory=dict)
    line: int = Field(0, exclude=True)

    @model_validator(mode="after")
    def _indices_exist(self) -> Self:
        count = len(self.candidates)
        for number, judgement in enumerate(self.judgements):
            where = f"judgements.{number}"
            for path, choice in _choices(judgement):
                if isinstance(choice, int) and not 0 <= choice < count:
                    raise ValueError(f"{where}.{path} is {choice}, but there are {count} candidates")
            if judgement.order is not None and sorted(judgement.order) != list(range(count)):
                raise ValueError(f"{where}.order is not an order of the {count} candidates")
            ranked = [index for tier in judgement.ranking or [] for index in tier]
            if len(set(ranked)) != len(ranked) or not set(ranked) <= set(range(count)):
                raise ValueError(f"{where}.ranking names a candidate twice or one that is not there")
            for key in ("ratings", "thumbs", "corrections"):
                values = getattr(judgement, key)
                if values is not None and len(values) != count:
                    raise ValueError(f"{where}.{key} has {len(values)} entries for {count} candidates")
            for mark in judgement.marks or []:
                if mark.candidate >= count:
                    raise ValueError(f"{where}.marks names candidate {mark.candidate} of {count}")
        return self


def _choices(judgement: Judgement) -> Iterator[tuple[str, int | str | None]]:
    """Everything in a judgement that names the better candidate, with its path."""
    yield "choice", judgement.choice
    for name, aspect in (judgement.aspects or {}).items():
        yield f"aspects.{name}.choice", aspect.choice
    for number, turn in enumerate(judgement.turns or []):
        yield f"turns.{number}.choice", turn.choice


def plain_text(text: Text) -> str:
    """The words of a text or of messages, one turn per line."""
    return text if isinstance(text, str) else "\n".join(message.words for message in text)


def load_groups(path: Path, *, modality: Modality, media: Path | None = None) -> list[Group]:
    """Every row of a JSONL file as a group, in the file's order.

    ``media`` is the folder of the images; when it is given every image is opened, measured before it is
    decoded, and decoded. Raises BadInput for the first row that cannot be used, and for a file without rows.
    """
    groups = []
    for line, row in _read_rows(path):
        group = _group_of(row, path=path, line=line, modality=modality)
        for number, candidate in enumerate(group.candidates):
            field = f"candidates.{number}.{modality}"
            if getattr(candidate, modality) is None:
                raise BadInput(f"this method works on {modality}s", file=path, line=line, field=field)
            if candidate.image is not None and media is not None:
                check_image(media, candidate.image, file=path, line=line, field=field)
        if media is not None and pictures_of(group.prompt):
            group = _with_pictures(group, media, file=path)
        groups.append(group)
    if not groups:
        raise BadInput("the file holds no rows", file=path)
    return groups


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value) of every line that is not blank. Raises BadInput where a line is not JSON."""
    try:
        handle = path.open(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput("the file is missing", file=path) from None
    with handle:
        line = 0
        try:
            for line, text in enumerate(handle, start=1):
                if text.strip():
                    yield line, json.loads(text)
        except json.JSONDecodeError as error:
            raise BadInput(f"not JSON: {error.msg} at column {error.colno}", file=path, line=line) from None
        except UnicodeDecodeError:
            raise BadInput("not UTF-8 text", file=path, line=line + 1) from None


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, row in read_json_lines(path):
        if not isinstance(row, dict):
            raise BadInput("a row must be a JSON object", file=path, line=line)
        yield line, row


# The public formats, by their columns: what each becomes.
_COLUMNS = {
    frozenset({"prompt", "chosen", "rejected"}): (["chosen", "rejected"], {"choice": 0}),
    frozenset({"prompt", "completion", "label"}): (["completion"], "label"),
    frozenset({"prompt", "completion"}): (["completion"], None),
    frozenset({"prompt"}): ([], None),
}


def _group_of(row: dict[str, Any], *, path: Path, line: int, modality: Modality) -> Group:
    if "prompt" not in row:
        raise BadInput('the column "prompt" is missing', file=path, line=line, field="prompt")
    columns = frozenset(row) - {"meta"}
    if "candidates" not in row:
        row = _from_columns(row, columns, path=path, line=line, modality=modality)
    if modality == "image":
        _refuse_parts(row["prompt"], path=path, line=line)
    if "line" in row:
        raise BadInput(
            'unknown key; put what the trainer should ignore under "meta"', file=path, line=line, field="line"
        )
    try:
        return Group.model_validate({**row, "line": line})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or None
        raise BadInput(_plain(first), file=path, line=line, field=_public_name(field, columns)) from None


def _with_pictures(group: Group, media: Path, *, file: Path) -> Group:
    """The group with the places of its prompt's pictures, all of which can be read."""
    for number, part in enumerate(pictures_of(group.prompt)):
        check_image(media, part.image, file=file, line=group.line, field=f"prompt (picture {number + 1})")
    assert not isinstance(group.prompt, str)
    prompt = [
        message
        if isinstance(message.content, str)
        else message.model_copy(
            update={
                "content": [
                    part.model_copy(update={"path": media / part.image})
                    if isinstance(part, ImagePart)
                    else part
                    for part in message.content
                ]
            }
        )
        for message in group.prompt
    ]
    return group.model_copy(update={"prompt": prompt})


def _refuse_parts(prompt: Any, *, path: Path, line: int) -> None:
    """BadInput for a message in parts: image models read words."""
    for number, message in enumerate(prompt if isinstance(prompt, list) else ()):
        if isinstance(message, dict) and isinstance(message.get("content"), list):
            problem = "is a list of parts; image models draw from words alone, so leave the row out"
            raise BadInput(problem, file=path, line=line, field=f"prompt.{number}.content")


def _from_columns(
    row: dict[str, Any], columns: frozenset[str], *, path: Path, line: int, modality: Modality
) -> dict[str, Any]:
    if columns not in _COLUMNS:
        raise BadInput(_missing(columns), file=path, line=line)
    answers, judged = _COLUMNS[columns]
    group: dict[str, Any] = {"prompt": row["prompt"], "candidates": [{modality: row[key]} for key in answers]}
    if judged == "label":
        if row["label"] not in (True, False, 0, 1):
            raise BadInput("must be true or false", file=path, line=line, field="label")
        group["judgements"] = [{"thumbs": [int(row["label"])]}]
    elif judged:
        group["judgements"] = [judged]
    if "meta" in row:
        group["meta"] = row["meta"]
    return group


def _missing(columns: frozenset[str]) -> str:
    for one, other in (("chosen", "rejected"), ("rejected", "chosen"), ("label", "completion")):
        if one in columns and other not in columns:
            return f'there is a column "{one}" but the column "{other}" is missing'
    unknown = sorted(columns - {"prompt", "chosen", "rejected", "completion", "label"})
    if unknown:
        return f'unknown column "{unknown[0]}"; put what the trainer should ignore under "meta"'
    return f"the columns {', '.join(sorted(columns))} do not go together"


def _plain(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return 'unknown key; put what the trainer should ignore under "meta"'
    return str(error["msg"]).removeprefix("Value error, ")


def _public_name(field: str | None, columns: frozenset[str]) -> str | None:
    """``candidates.0`` of a row that has columns is the column."""
    if field is None or "candidates" in columns:
        return field
    for position, name in enumerate(["chosen", "rejected"] if "chosen" in columns else ["completion"]):
        if field.startswith(f"candidates.{position}"):
            return name
    return field


def check_image(media: Path, name: str, *, file: Path, line: int, field: str) -> None:
    """BadInput unless the image lies inside ``media``, has at most 50 megapixels, and decodes completely."""
    from PIL import Image, UnidentifiedImageError

    path = media / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(media.resolve()):
        raise BadInput(f'"{name}" leads out of the folder of images', file=file, line=line, field=field)
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BadInput(
                    f'"{name}" has {width} × {height} pixels; at most {MAX_PIXELS // 10**6} million are read',
                    file=file,
                    line=line,
                    field=field,
                )
            image.load()
    except FileNotFoundError:
        raise BadInput(f'the image "{name}" is missing', file=file, line=line, field=field) from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise BadInput(
            f'the image "{name}" cannot be read: {error}', file=file, line=line, field=field
        ) from None
