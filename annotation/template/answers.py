"""Whether an answer fits the template."""

from typing import Any

from annotation.errors import Invalid
from annotation.template.parsing import find_question
from annotation.template.questions import BOTH_BAD, TIE, ChoiceQuestion


def check_answer(
    questions: list[dict[str, Any]],
    *,
    candidates: int,
    choice: object,
    strength: int | None,
    answers: dict[str, Any],
) -> None:
    """Raise `Invalid` unless the answer fits. `choice` is a presented position, "tie" or "both_bad"."""
    question = ChoiceQuestion.model_validate(find_question(questions, "choice") or {})
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
