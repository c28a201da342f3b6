"""Templates as people send them: checked whole, with a path to each thing that is wrong."""

from collections.abc import Sequence
from typing import Any, Final

from django.utils.translation import gettext as _
from pydantic import TypeAdapter, ValidationError

from annotation.errors import Invalid
from annotation.template.questions import (
    COMPARING,
    KEYS,
    MARKS_OF,
    MOST_RANKED,
    AnyQuestion,
    ChoiceQuestion,
    MarksQuestion,
)

_LIST: TypeAdapter[list[AnyQuestion]] = TypeAdapter(list[AnyQuestion])
KINDS: Final = (*KEYS, "context")
DEFAULT_QUESTIONS: Final[list[dict[str, Any]]] = [ChoiceQuestion().model_dump()]
TEXT_ONLY: Final = ("correction", "turns")


def parse_questions(questions: object, *, modality: str = "text") -> list[dict[str, Any]]:
    """The template as it is stored, every default written out; `None` gives the default template.

    Raises `Invalid` with paths such as `questions.1.aspects.0.max`.
    """
    if questions is None:
        return DEFAULT_QUESTIONS
    if not isinstance(questions, list) or not questions:
        raise Invalid({"questions": _("must be a list of at least one question.")})
    _check_types(questions)
    try:
        parsed = _LIST.validate_python(questions)
    except ValidationError as error:
        raise Invalid(dict(_problem(item) for item in error.errors())) from error
    if errors := _clashes(parsed, modality):
        raise Invalid(errors)
    return [question.model_dump() for question in parsed]


def load_questions(questions: Sequence[dict[str, Any]]) -> list[AnyQuestion]:
    """A stored template as models, one per question."""
    return _LIST.validate_python(questions)


def template_schema() -> dict[str, Any]:
    """JSON schema of a template, from which its form is made; titles are in English, for gettext."""
    return _LIST.json_schema()


def find_question(questions: Sequence[dict[str, Any]], kind: str) -> dict[str, Any] | None:
    """The stored question of this type, if the template asks it."""
    return next((question for question in questions if question["type"] == kind), None)


def can_be_judged(questions: Sequence[dict[str, Any]], candidates: int) -> bool:
    """Whether the template asks anything about a comparison of so many candidates."""
    asked = {question["type"] for question in questions} & KEYS.keys()
    return candidates >= 2 or (candidates == 1 and bool(asked - COMPARING))


def most_candidates(questions: Sequence[dict[str, Any]]) -> int | None:
    """How many candidates a comparison may have under this template; None: any number."""
    return MOST_RANKED if find_question(questions, "ranking") is not None else None


def _check_types(questions: list[Any]) -> None:
    errors = {}
    for number, question in enumerate(questions):
        kind = question.get("type") if isinstance(question, dict) else None
        if kind in KINDS:
            continue
        said = (
            _("is missing; known: %(kinds)s.")
            if kind is None
            else _("%(found)s is no type of question; known: %(kinds)s.")
        )
        errors[f"questions.{number}.type"] = said % {"found": f"{kind!s:.60}", "kinds": ", ".join(KINDS)}
    if errors:
        raise Invalid(errors)


def _problem(item: Any) -> tuple[str, str]:
    """Path and message of one pydantic error, without the discriminator's own step in the path."""
    number, _kind, *rest = item["loc"]
    message = _("is not known here.") if item["type"] == "extra_forbidden" else item["msg"]
    return ".".join(map(str, ["questions", number, *rest])), message.removeprefix("Value error, ")


def _clashes(questions: list[AnyQuestion], modality: str) -> dict[str, str]:
    """What each question alone cannot know: its place beside the others and beside the material."""
    errors: dict[str, str] = {}
    types = [question.type for question in questions]
    possible = MARKS_OF.get(modality, ())
    for number, question in enumerate(questions):
        path = f"questions.{number}"
        if question.type in types[:number]:
            errors[f"{path}.type"] = _("is there already; a template asks each kind of question once.")
        if modality == "image" and question.type in TEXT_ONLY:
            errors[f"{path}.type"] = _("does not go with pictures.")
        if isinstance(question, MarksQuestion):
            wrong = [kind for kind in question.kinds if kind not in possible]
            if wrong:
                errors[f"{path}.kinds"] = _("%(wrong)s cannot be marked here; possible: %(possible)s.") % {
                    "wrong": ", ".join(wrong),
                    "possible": ", ".join(possible),
                }
        if isinstance(question, ChoiceQuestion) and question.worst and "ranking" in types:
            errors[f"{path}.worst"] = _("is told by the ranking already; take one of them out.")
    if not errors and not set(types) & KEYS.keys():
        errors["questions"] = _("A context alone asks nothing; add a question.")
    return errors
