"""What people said, between requests and rows: checked and canonical going in, as shown coming out."""

from typing import Any

from annotation.models import Candidate, Comparison, Judgement, Lease, Project, TemplateVersion
from annotation.template import (
    Shown,
    check_answer,
    context_of,
    differences_of,
    find_question,
    presented_answer,
    stored_answer,
    to_canonical,
)


def questions_of(lease: Lease, project: Project) -> list[dict[str, Any]]:
    """The template that this lease was handed out under, however it was changed meanwhile."""
    if lease.template_version == project.template_version:
        return project.questions
    return TemplateVersion.objects.get(project=project, version=lease.template_version).questions


def what_was_said(lease: Lease, project: Project, given: dict[str, Any]) -> dict[str, Any]:
    """The columns of a judgement that hold what was answered: choice, strength, answers, differences.

    `given` is in presented positions, under the template of the lease. Raises `Invalid`. What only some
    templates need is read only for them.
    """
    questions = questions_of(lease, project)

    def load_texts() -> list[Any]:
        texts = _texts(lease.comparison_id)
        return [texts[index] for index in lease.order]

    shown = Shown(len(lease.order), load_texts)
    columns = _columns(stored_answer(questions, check_answer(questions, given, shown), shown, lease.order))
    if columns["answers"].get("corrections") is not None:
        texts = to_canonical({"corrections": shown.texts}, lease.order)["corrections"]
        columns["differences"] = differences_of(columns["answers"]["corrections"], texts)
    if find_question(questions, "context") is not None:
        meta = Comparison.objects.values_list("meta", flat=True).get(pk=lease.comparison_id)
        columns["answers"]["context"] = context_of(questions, meta)
    return columns


def known_answer(
    project: Project, comparison: Comparison, given: dict[str, Any], *, version: int | None = None
) -> dict[str, Any]:
    """The same columns for an answer to a part of the template, given in canonical indices.

    `version` is that of the template, where the project has had it; else it is the one in force.
    """
    found = TemplateVersion.objects.filter(
        project=project, version=version or project.template_version
    ).first()
    questions = found.questions if found is not None else project.questions
    return answer_to_texts(questions, _texts(comparison.pk), given)


def answer_to_texts(
    questions: list[dict[str, Any]], texts: list[Any], given: dict[str, Any]
) -> dict[str, Any]:
    """The columns for an answer about candidates with these texts (None: a picture), in their own order."""
    shown, order = Shown(len(texts), lambda: texts), range(len(texts))
    checked = check_answer(questions, given, shown, partial=True)
    columns = _columns(stored_answer(questions, checked, shown, order))
    if columns["answers"].get("corrections") is not None:
        columns["differences"] = differences_of(columns["answers"]["corrections"], texts)
    return columns


def answer_as_given(judgement: Judgement) -> dict[str, Any]:
    """What was answered, in the positions in which the candidates were shown; keys as in requests."""
    plain = {"choice": judgement.choice, "strength": judgement.strength}
    stored = {key: value for key, value in plain.items() if value is not None} | judgement.answers
    return presented_answer(stored, judgement.order)


def _texts(comparison: int) -> list[Any]:
    """Of the candidates in their own order; None for pictures."""
    candidates = Candidate.objects.filter(comparison=comparison).order_by("index")
    return list(candidates.values_list("text", flat=True))


def _columns(stored: dict[str, Any]) -> dict[str, Any]:
    return {
        "choice": stored.pop("choice", None),
        "strength": stored.pop("strength", None),
        "answers": stored,
        "differences": None,
    }
