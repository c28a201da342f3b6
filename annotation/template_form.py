"""The task template as a form: fields from the schema of each kind of question, and the template they mean.

A value has the name of its path: `questions.1.aspects.0.title`. Values are checked by
`annotation.template.parse_questions`, whose paths are the same, so that each error stands at its field.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from django.http import QueryDict
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop

from annotation.errors import Invalid
from annotation.template import parse_questions, template_schema

Question = dict[str, Any]
TITLES: Final = {
    "choice": gettext_lazy("Choice of the best"),
    "aspects": gettext_lazy("Choice in several respects"),
    "ranking": gettext_lazy("Ranking"),
    "ratings": gettext_lazy("Ratings on scales"),
    "thumbs": gettext_lazy("Good or not"),
    "rubric": gettext_lazy("Rubric"),
    "tags": gettext_lazy("Reasons from a list"),
    "critique": gettext_lazy("Critique in words"),
    "correction": gettext_lazy("Corrected answer"),
    "marks": gettext_lazy("Marks in the answers"),
    "turns": gettext_lazy("Choice at each turn of a chat"),
    "context": gettext_lazy("Principle or context to judge by"),
}
WORDS: Final = {
    **{"likert": gettext_lazy("numbers"), "stars": gettext_lazy("stars")},
    **{"span": gettext_lazy("parts of a text"), "step": gettext_lazy("steps of a text")},
    **{"box": gettext_lazy("boxes on a picture"), "point": gettext_lazy("points on a picture")},
}
# What a new question starts with, where the schema's defaults do not make one.
STARTERS: Final[dict[str, Question]] = {
    "aspects": {"aspects": [{"name": "helpfulness"}, {"name": "honesty"}]},
    "ratings": {"aspects": [{"name": "helpfulness"}]},
    "rubric": {"criteria": [{"name": "answers", "text": gettext_noop("Answers what was asked")}]},
    "tags": {"options": [{"name": "wrong_fact"}, {"name": "off_topic"}]},
    "marks": {"kinds": [], "categories": [{"name": "wrong_fact"}]},
}


@dataclass(frozen=True)
class Field:
    """One input. `widget`: checkbox, number, text, area, select, checks, or table of `rows`."""

    path: str
    label: str
    help: str
    widget: str
    value: Any = None
    choices: list[tuple[str, Any]] = field(default_factory=list)
    rows: list[list["Field"]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return "id_" + self.path.replace(".", "_")


@dataclass(frozen=True)
class QuestionForm:
    number: int
    kind: str
    title: Any
    fields: list[Field]
    errors: list[str]


def read_template(data: QueryDict) -> list[Question]:
    """The questions in the form, as they were typed; numbers and lists in their types where they can be."""
    numbers = sorted(
        {int(name.split(".")[1]) for name in data if re.fullmatch(r"questions\.\d+\.type", name)}
    )
    return [_read_question(data, f"questions.{number}") for number in numbers]


def _read_question(data: QueryDict, path: str) -> Question:
    kind = data[f"{path}.type"]
    if kind not in TITLES:
        raise Invalid({f"{path}.type": _("is no kind of question.")})
    return {"type": kind} | _read_object(data, path, _properties(kind))


def _read_object(data: QueryDict, path: str, properties: Mapping[str, Any]) -> Question:
    return {
        name: _read(data, f"{path}.{name}", found) for name, found in properties.items() if name != "type"
    }


def _read(data: QueryDict, path: str, found: dict[str, Any]) -> Any:
    if found["type"] == "boolean":
        return path in data
    if found["type"] == "array":
        return _read_list(data, path, found["items"])
    text = data.get(path, "")
    if found["type"] in ("integer", "number"):
        return _number(text, found)
    return text.strip()


def _read_list(data: QueryDict, path: str, items: dict[str, Any]) -> list[Any]:
    if "enum" in items:
        return data.getlist(path)
    if "$ref" not in items:
        return [part.strip() for part in data.get(path, "").split(",") if part.strip()]
    properties = _definition(items)
    rows = sorted(
        {
            int(name[len(path) + 1 :].split(".")[0])
            for name in data
            if re.match(rf"{re.escape(path)}\.\d+\.", name)
        }
    )
    read = [_read_object(data, f"{path}.{row}", properties) for row in rows]
    texts = [name for name, found in properties.items() if found["type"] == "string" and "enum" not in found]
    return [row for row in read if any(row[name] for name in texts)]


def _number(text: str, found: dict[str, Any]) -> Any:
    """As a number if it is one; as it was typed otherwise, which the template refuses."""
    if not text.strip():
        return found.get("default")
    try:
        return int(text) if found["type"] == "integer" else float(text)
    except ValueError:
        return text


OPERATION: Final = re.compile(
    r"(?P<name>remove|up|down|more):(?:questions\.)?(?P<number>\d{1,3})(?:\.(?P<key>\w+))?"
)


def change_template(questions: Sequence[Question], operation: str, kind: str) -> list[Question]:
    """After one of the editor's buttons: add, remove:1, up:1, down:1, or more:questions.1.aspects.

    An operation that does not fit changes nothing.
    """
    changed = [dict(question) for question in questions]
    if operation == "add":
        return [*changed, new_question(kind)] if kind in TITLES else changed
    match = OPERATION.fullmatch(operation)
    if match is None or int(match["number"]) >= len(changed):
        return changed
    place, name = int(match["number"]), match["name"]
    if name == "more":
        if isinstance(changed[place].get(match["key"]), list):
            changed[place][match["key"]] = [*changed[place][match["key"]], {}]
        return changed
    taken = changed.pop(place)
    if name != "remove":
        changed.insert(max(0, place + (1 if name == "down" else -1)), taken)
    return changed


def new_question(kind: str) -> Question:
    defaults = {
        name: [] if found["type"] == "array" else found["default"]
        for name, found in _properties(kind).items()
        if "default" in found or found["type"] == "array"
    }
    translated = {name: _(value) if name == "text" and value else value for name, value in defaults.items()}
    return translated | STARTERS.get(kind, {}) | {"type": kind}


def forms_of(questions: Sequence[Question], errors: Mapping[str, str]) -> list[QuestionForm]:
    """The fields of each question with what is wrong with them."""
    return [
        QuestionForm(
            number,
            question["type"],
            TITLES[question["type"]],
            _fields(f"questions.{number}", _properties(question["type"]), question, errors),
            [
                words
                for path, words in errors.items()
                if path in (f"questions.{number}", f"questions.{number}.type")
            ],
        )
        for number, question in enumerate(questions)
    ]


def _fields(
    path: str, properties: Mapping[str, Any], values: Question, errors: Mapping[str, str]
) -> list[Field]:
    names = sorted((name for name in properties if name != "type"), key=lambda name: name == "required")
    names = sorted(names, key=lambda name: name not in ("text", "name", "title"))
    return [_field(f"{path}.{name}", properties[name], values.get(name), errors) for name in names]


def _field(path: str, found: dict[str, Any], value: Any, errors: Mapping[str, str]) -> Field:
    title, help_text = found["title"], found.get("description", "")
    words: dict[str, Any] = {
        "path": path,
        "label": _(title),
        "help": _(help_text) if help_text else "",
        "errors": [words for place, words in errors.items() if place == path],
    }
    if found["type"] == "array":
        return _list_field(words, found["items"], value or [], errors)
    if "enum" in found:
        return Field(
            **words, widget="select", value=value, choices=[(one, WORDS[one]) for one in found["enum"]]
        )
    default = found.get("default")
    widget = {"boolean": "checkbox", "integer": "number", "number": "number"}.get(found["type"], "text")
    if found["type"] == "string" and found.get("maxLength", 0) > 1000:
        widget = "area"
    return Field(**words, widget=widget, value=default if value is None else value)


def _list_field(
    words: dict[str, Any], items: dict[str, Any], value: list[Any], errors: Mapping[str, str]
) -> Field:
    path = words["path"]
    if "enum" in items:
        return Field(
            **words, widget="checks", value=value, choices=[(one, WORDS[one]) for one in items["enum"]]
        )
    if "$ref" not in items:
        inner = [text for place, text in errors.items() if place.startswith(f"{path}.")]
        return Field(
            **words | {"errors": words["errors"] + inner}, widget="text", value=", ".join(map(str, value))
        )
    properties = _definition(items)
    rows = [_fields(f"{path}.{row}", properties, one, errors) for row, one in enumerate(value)]
    blunt = [text for place, text in errors.items() if re.fullmatch(rf"{re.escape(path)}\.\d+", place)]
    return Field(**words | {"errors": words["errors"] + blunt}, widget="table", rows=rows)


def editor_context(questions: Sequence[Question], *, modality: str, count: int) -> dict[str, Any]:
    """What the editor shows: the fields, what is wrong, and whether there is something to preview."""
    errors: dict[str, str] = {}
    try:
        parsed = parse_questions(list(questions), modality=modality)
    except Invalid as error:
        parsed, errors = [], error.errors
    forms = forms_of(questions, errors)
    used = {question["type"] for question in questions}
    return {
        "question_forms": forms,
        "template_errors": [words for path, words in errors.items() if path == "questions"],
        "parsed": parsed,
        "kinds_to_add": [(kind, title) for kind, title in TITLES.items() if kind not in used],
        "modality": modality,
        "preview_count": count,
        "counts": (1, 2, 3, 4),
    }


def _properties(kind: str) -> dict[str, Any]:
    mapping = _schema()["items"]["discriminator"]["mapping"]
    return _definition({"$ref": mapping[kind]})


def _definition(reference: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = _schema()["$defs"][reference["$ref"].rsplit("/", 1)[1]]["properties"]
    return properties


@cache
def _schema() -> dict[str, Any]:
    return template_schema()
