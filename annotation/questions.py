"""The task template of a project: what is asked about each comparison, and which answers fit.

So far a template is one question, the choice between the candidates; other kinds are refused by name.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from annotation.errors import Invalid

SUPPORTED = ("choice",)
TIE, BOTH_BAD = "tie", "both_bad"


class ChoiceQuestion(BaseModel):
    """Which candidate is better, how much (1 to 3), and whether "tie" and "both bad" are offered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["choice"] = "choice"
    text: str = Field(default="Which answer is better?", pattern=r"^[^\x00]+$", max_length=500)
    strength: bool = True
    tie: bool = True
    both_bad: bool = True


DEFAULT_QUESTIONS: list[dict[str, Any]] = [ChoiceQuestion().model_dump()]


def parse_questions(questions: object) -> list[dict[str, Any]]:
    """The template as it is stored; `None` gives the default. Raises `Invalid` with paths into the list."""
    if questions is None:
        return DEFAULT_QUESTIONS
    if not isinstance(questions, list) or len(questions) != 1:
        raise Invalid({"questions": "must be a list of exactly one question so far, of type `choice`."})
    question = questions[0]
    kind = question.get("type", "choice") if isinstance(question, dict) else None
    if kind not in SUPPORTED:
        found = f"{kind!r} is not supported yet" if kind is not None else "is not an object with a `type`"
        raise Invalid({"questions.0.type": f"The question type {found}; supported: {', '.join(SUPPORTED)}."})
    try:
        return [ChoiceQuestion.model_validate(question).model_dump()]
    except ValidationError as error:
        paths = {".".join(map(str, ("questions", 0, *item["loc"]))): item["msg"] for item in error.errors()}
        raise Invalid(paths) from error


def check_answer(
    questions: list[dict[str, Any]],
    *,
    candidates: int,
    choice: object,
    strength: int | None,
    answers: dict[str, Any],
) -> None:
    """Raise `Invalid` unless the answer fits. `choice` is a presented position, "tie" or "both_bad"."""
    question = ChoiceQuestion.model_validate(questions[0])
    errors: dict[str, str] = {}
    positional = isinstance(choice, int) and not isinstance(choice, bool)
    words = [word for word, offered in ((TIE, question.tie), (BOTH_BAD, question.both_bad)) if offered]
    if positional and not 0 <= choice < candidates:  # type: ignore[operator]
        errors["choice"] = f"{choice} is no candidate; the positions are 0 to {candidates - 1}."
    elif not positional and choice not in words:
        offered = ", ".join(f'"{word}"' for word in words)
        errors["choice"] = f"must be a position from 0 to {candidates - 1}" + (
            f", or one of {offered}." if words else "."
        )
    if strength is not None and not question.strength:
        errors["strength"] = "This project does not ask how much better the answer is."
    elif strength is not None and not positional:
        errors["strength"] = f'must be left out with "{choice}".'
    elif strength is not None and strength not in (1, 2, 3):
        errors["strength"] = "must be 1, 2 or 3."
    errors |= {name: "is not asked by this project's template." for name in answers}
    if errors:
        raise Invalid(errors)
