"""Known answers: setting them, and comparing answers with them."""

from typing import Any

from django.db import transaction

from annotation.errors import Conflict, Invalid, NotFound
from annotation.models import Comparison, GoldAnswer, Project, User
from annotation.services.answers import known_answer
from annotation.services.counting import mark_stale


@transaction.atomic
def set_gold_answer(
    *,
    project: Project,
    comparison_id: int,
    by: User,
    purpose: str = GoldAnswer.Purpose.GOLD,
    choice: int | str | None = None,
    answers: dict[str, Any] | None = None,
    explanation: str = "",
) -> GoldAnswer:
    """Say what the right answer to a comparison is, in canonical positions; again, and it is replaced.

    A gold question is mixed in with the regular ones at the project's rate; one with the purpose
    `qualification` is part of the test before the first work.
    """
    if purpose not in GoldAnswer.Purpose.values:
        raise Invalid({"purpose": f"{purpose!r} is not known; use gold or qualification."})
    comparison = Comparison.objects.filter(project=project, pk=comparison_id).first()
    if comparison is None:
        raise NotFound("There is no such comparison in this project.")
    known = known_answer(project, comparison, {"choice": choice, **(answers or {})})
    values = {
        "project": project,
        "purpose": purpose,
        "choice": known["choice"],  # how much better is a matter of opinion
        "answers": known["answers"],
        "explanation": explanation,
        "created_by": by,
    }
    gold = GoldAnswer.objects.update_or_create(comparison=comparison, defaults=values)[0]
    mark_stale([comparison.pk])
    return gold


@transaction.atomic
def remove_gold_answer(*, project: Project, gold_answer_id: int) -> None:
    """Forget a known answer. What people answered to it stays as it is."""
    project = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    mine = GoldAnswer.objects.filter(project=project)
    found = mine.filter(pk=gold_answer_id).first()
    if found is None:
        raise NotFound("There is no such known answer in this project.")
    test = mine.filter(purpose=GoldAnswer.Purpose.QUALIFICATION)
    if project.pass_mark is not None and not test.exclude(pk=found.pk).exists():
        raise Conflict("The test needs at least one question; switch the test off first.")
    mark_stale([found.comparison_id])
    found.delete()


def is_right(gold: GoldAnswer, *, choice: int | str | None, answers: dict[str, Any]) -> bool:
    """Whether a canonical answer meets the known one in every key that this gives."""
    if gold.choice is not None and choice != gold.choice:
        return False
    return all(
        _comparable(key, answers.get(key)) == _comparable(key, value) for key, value in gold.answers.items()
    )


def _comparable(key: str, value: Any) -> Any:
    """Without the orders that say nothing: of tags, and of candidates on the same rank."""
    if key == "tags" and isinstance(value, list):
        return sorted(value)
    if key == "ranking" and isinstance(value, list):
        return [sorted(rank) for rank in value]
    return value
