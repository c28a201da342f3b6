"""Answers as people send them, checked against the template that they saw, in the form that is stored."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.utils.translation import gettext as _
from pydantic import ValidationError

from annotation.errors import Invalid
from annotation.template.checks import CHECKS, Shown
from annotation.template.parsing import load_questions
from annotation.template.positions import Answers, Places, sorted_marks, to_canonical, to_presented
from annotation.template.questions import COMPARING, KEYS, MOST_RANKED, AnyQuestion, ContextQuestion
from annotation.template.shapes import ANSWERS
from annotation.template.texts import Text, steps_of

NOT_ANSWERS = ("context", "annotator_group")  # what a judgement's answers hold beside them


def check_answer(
    questions: Sequence[dict[str, Any]], given: Answers, shown: Shown, *, partial: bool = False
) -> Answers:
    """The answer in its normal form, still in presented positions.

    Keys that are null or blank are left out, ranks and marks are sorted. A `partial` answer may leave whole
    questions out, required or not. Raises `Invalid` with paths such as `ratings.1.helpfulness`.
    """
    template = load_questions(questions)
    known = {key for question in template for key in _keys_of(question)}
    answers: Answers = {}
    errors: dict[str, str] = {}
    for key, value in given.items():
        if value is None:
            continue
        if key not in known:
            errors[key] = _("is not asked by this project's template.")
            continue
        try:
            answers[key] = _read(key, value)
        except ValidationError as error:
            errors |= dict(_problem(key, item) for item in error.errors())
    answers = {key: value for key, value in answers.items() if key == "marks" or not _is_blank(value)}
    unread = {path.split(".")[0] for path in errors}
    for question in template:
        left_out = partial and not answers.keys() & set(_keys_of(question))
        if (
            not isinstance(question, ContextQuestion)
            and not left_out
            and not unread & set(_keys_of(question))
        ):
            errors |= dict(reversed(list(_problems(question, answers, shown))))
    if not answers and not errors:
        errors[next(key for question in template for key in _keys_of(question))] = _("Nothing is answered.")
    if errors:
        raise Invalid(errors)
    return answers


def stored_answer(
    questions: Sequence[dict[str, Any]], answers: Answers, shown: Shown, order: Places
) -> Answers:
    """A checked answer in canonical indices, as it is kept.

    Where steps are marked, every step up to and including the first error has a mark, with its place in the
    text; `first_error` says whether it is one. Steps behind it have none: they are not labelled.
    """
    marks = next((question for question in questions if question["type"] == "marks"), None)
    if marks is not None and "step" in marks["kinds"] and "marks" in answers:
        answers = answers | {"marks": _with_every_step(answers["marks"], shown.texts)}
    return to_canonical(answers, order)


def presented_answer(stored: Answers, order: Places | None) -> Answers:
    """The inverse of `stored_answer`: what the person sent, in its normal form.

    Where nobody knows what was shown (some imported judgements have no order) the indices stay.
    """
    answers = {key: value for key, value in stored.items() if key not in NOT_ANSWERS}
    if "marks" in answers:
        answers["marks"] = [mark for mark in map(_as_sent, answers["marks"]) if mark is not None]
    return answers if order is None else to_presented(answers, order)


def _keys_of(question: AnyQuestion) -> list[str]:
    if question.type == "choice":
        return ["choice", "strength", *(["ranking"] if question.worst else [])]
    return [] if question.type == "context" else [KEYS[question.type]]


def _read(key: str, value: object) -> Any:
    """The value in its shape, in normal form. Raises pydantic's `ValidationError`."""
    shape = ANSWERS[key]
    read = shape.dump_python(shape.validate_python(value), mode="json", exclude_none=True)
    if key == "ranking":
        return [sorted(rank) for rank in read]
    if key == "marks":
        return sorted_marks([_without(mark, "first_error", False) for mark in read])
    return sorted(read, key=lambda answer: answer["turn"]) if key == "turns" else read


def _without(mark: Answers, name: str, value: object) -> Answers:
    return {key: item for key, item in mark.items() if key != name or item != value}


def _is_blank(value: Any) -> bool:
    """Whether nothing is said: an empty text or list, or a list of nothing for every candidate."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, list):
        return all(item is None or item == {} for item in value)
    return value == {}


def _problems(question: Any, answers: Answers, shown: Shown) -> Iterator[tuple[str, str]]:
    keys = _keys_of(question)
    given = [key for key in keys if key in answers]
    if not _can_be_answered(question, shown):
        said = _("cannot be answered for %(n)s candidates.") % {"n": shown.candidates}
        yield from ((key, said) for key in given)
    elif keys[0] in answers or (question.required and question.type == "choice"):
        yield from CHECKS[question.type](question, answers, shown)
    elif question.required:
        yield keys[0], _("must be answered.")
    else:
        yield from ((key, _("needs a choice.")) for key in given)


def _can_be_answered(question: AnyQuestion, shown: Shown) -> bool:
    if question.type in COMPARING and shown.candidates < 2:
        return False
    if question.type == "ranking" and shown.candidates > MOST_RANKED:
        return False
    return question.type != "turns" or shown.shared_turns > 0


def _problem(key: str, item: Any) -> tuple[str, str]:
    message = _("is not known here.") if item["type"] == "extra_forbidden" else item["msg"]
    return ".".join(map(str, [key, *item["loc"]])), message.removeprefix("Value error, ")


def _with_every_step(marks: list[Answers], texts: Sequence[Text]) -> list[Answers]:
    """The marks, with one at least for every step that they label."""
    complete = [mark for mark in marks if mark["type"] != "step"]
    for candidate, text in enumerate(texts):
        own = [mark for mark in marks if mark["type"] == "step" and mark["candidate"] == candidate]
        spans = steps_of(text)
        last = min((mark["step"] for mark in own if mark.get("first_error")), default=len(spans) - 1)
        for step, (start, end) in enumerate(spans[: last + 1]):
            bare = {"candidate": candidate, "type": "step", "step": step}
            said = [mark for mark in own if mark["step"] == step] or [bare]
            complete += [{"first_error": False} | mark | {"start": start, "end": end} for mark in said]
    return sorted_marks(complete)


def _as_sent(mark: Answers) -> Answers | None:
    """A stored mark without what the server added; None if that was all."""
    if mark["type"] != "step" or "step" not in mark:
        return mark
    sent = {key: value for key, value in mark.items() if key not in ("start", "end")}
    sent = _without(sent, "first_error", False)
    return sent if set(sent) > {"candidate", "type", "step"} else None
