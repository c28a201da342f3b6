"""Rows of data: the group, its candidates, and what people said about them. Torch-free."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

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


def _is_missing(value: object) -> bool:
    return not value


def _parsed(arguments: object) -> object:
    """Arguments that somebody wrote as JSON in a string, as OpenAI's servers do."""
    try:
        return json.loads(arguments) if isinstance(arguments, str) else arguments
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}") from None


class Function(Row):
    """Which tool is called, and with what."""

    name: str = Field(min_length=1)
    arguments: Annotated[dict[str, Any], BeforeValidator(_parsed)]


class ToolCall(Row):
    """A call of a tool by the assistant."""

    type: Literal["function"] = "function"
    id: str | None = Field(None, exclude_if=_is_missing)
    function: Function


class Message(Row):
    """One turn of a chat: words, or, in prompts for vision-language models, parts of words and pictures.

    An assistant's turn may call tools; the role ``tool`` says what came of a call. ``tools``, the JSON
    schemas of what may be called, stand on a prompt's first message.
    """

    role: str = Field(min_length=1)
    content: str | list[TextPart | ImagePart]
    name: str | None = Field(None, exclude_if=_is_missing)
    tool_calls: list[ToolCall] | None = Field(None, exclude_if=_is_missing)
    tool_call_id: str | None = Field(None, exclude_if=_is_missing)
    tools: list[dict[str, Any]] | None = Field(None, exclude_if=_is_missing)

    @model_validator(mode="before")
    @classmethod
    def _calls_need_no_words(cls, row: Any) -> Any:
        if isinstance(row, dict) and row.get("tool_calls") and row.get("content") is None:
            return row | {"content": ""}
        return row

    @model_validator(mode="after")
    def _assistants_call(self) -> Self:
        if self.tool_calls and self.role != "assistant":
            raise ValueError("the assistant alone calls tools")
        return self

    @property
    def words(self) -> str:
        """What it says, without pictures; calls of tools as JSON, a line each."""
        if isinstance(self.content, str):
            said = [self.content] if self.content or not self.tool_calls else []
        else:
            said = [part.text for part in self.content if isinstance(part, TextPart)]
        calls = [call.function.model_dump_json() for call in self.tool_calls or []]
        return "\n".join([*said, *calls])

    def opened_with(self, words: str) -> "Message":
        """The message with words before all else."""
        if isinstance(self.content, str):
            return self.model_copy(update={"content": words + self.content})
        return self.model_copy(update={"content": [TextPart(type="text", text=words), *self.content]})


Text = str | list[Message]


def turns_of(prompt: Text) -> list[Message]:
    """A prompt as messages: a text is what the user says."""
    return [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt


def tools_of(prompt: Text) -> list[dict[str, Any]] | None:
    """The JSON schemas of the tools that may be called; None if there are none."""
    return None if isinstance(prompt, str) or not prompt else prompt[0].tools or None


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
    """One prompt, its candidates, and what people said about them. ``line`` is where it was read.

    ``tools`` of a row are put on its prompt's first message, where everything else finds them.
    """

    prompt: Text
    candidates: list[Candidate] = Field(default_factory=list)
    judgements: list[Judgement] = Field(default_factory=list)
    tools: list[dict[str, Any]] | None = Field(None, exclude_if=_is_missing)
    reference: Any = None
    meta: dict[str, Any] = Field(default_factory=dict)
    line: int = Field(0, exclude=True)

    @model_validator(mode="after")
    def _tools_stand_once(self) -> Self:
        turns = [] if isinstance(self.prompt, str) else self.prompt
        answers = [turn for one in self.candidates if isinstance(one.text, list) for turn in one.text]
        if any(turn.tools for turn in [*turns[1:], *answers]) or (self.tools and tools_of(self.prompt)):
            raise ValueError("tools stand once: in the row, or on the prompt's first message")
        return self

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


def with_tools(group: Group) -> Group:
    """The group with its row's tools on the prompt's first message."""
    if not group.tools:
        return group
    first, *others = turns_of(group.prompt)
    prompt = [first.model_copy(update={"tools": group.tools}), *others]
    return group.model_copy(update={"prompt": prompt, "tools": None})


def plain_text(text: Text) -> str:
    """The words of a text or of messages, one turn per line."""
    return text if isinstance(text, str) else "\n".join(message.words for message in text)
