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
        texts = Candidate.objects.filter(comparison=lease.comparison_id).order_by("index")
        canonical = list(texts.values_list("text", flat=True))
        return [canonical[index] for index in lease.order]

    shown = Shown(len(lease.order), load_texts)
    stored = stored_answer(questions, check_answer(questions, given, shown), shown, lease.order)
    if find_question(questions, "context") is not None:
        meta = Comparison.objects.values_list("meta", flat=True).get(pk=lease.comparison_id)
        stored["context"] = context_of(questions, meta)
    differences = None
    if "corrections" in stored:
        texts = to_canonical({"corrections": shown.texts}, lease.order)["corrections"]
        differences = differences_of(stored["corrections"], texts)
    return {
        "choice": stored.pop("choice", None),
        "strength": stored.pop("strength", None),
        "answers": stored,
        "differences": differences,
    }


def known_answer(project: Project, comparison: Comparison, given: dict[str, Any]) -> dict[str, Any]:
    """An answer to a part of the template, in canonical indices, in the form in which answers are stored."""
    texts: list[Any] = list(comparison.candidates.order_by("index").values_list("text", flat=True))
    shown, order = Shown(len(texts), lambda: texts), range(len(texts))
    checked = check_answer(project.questions, given, shown, partial=True)
    return stored_answer(project.questions, checked, shown, order)


def answer_as_given(judgement: Judgement) -> dict[str, Any]:
    """What was answered, in the positions in which the candidates were shown; keys as in requests."""
    plain = {"choice": judgement.choice, "strength": judgement.strength}
    stored = {key: value for key, value in plain.items() if value is not None} | judgement.answers
    return presented_answer(stored, judgement.order)
