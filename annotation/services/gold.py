"""Known answers: setting them, and comparing answers with them."""

from typing import Any, Final

from django.db import transaction
from django.utils.translation import gettext as _

from annotation.errors import Conflict, Invalid, NotFound
from annotation.formats.schema import RowError
from annotation.models import Comparison, GoldAnswer, ImportJob, Project, User
from annotation.services.answers import answer_to_texts, known_answer
from annotation.services.comparisons import COLUMNS, add_groups, content_of
from annotation.services.counting import mark_stale
from annotation.template import presented_answer

OPEN_ENDED: Final = {"critique", "corrections"}  # nobody finds the same words
BESIDE: Final = {"annotator", "annotator_group", "context", *OPEN_ENDED, *COLUMNS} - {"choice"}
MAX_EXPLANATION: Final = 10_000


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
        raise Invalid(
            {"purpose": _("%(purpose)r is not known; use gold or qualification.") % {"purpose": purpose}}
        )
    comparison = Comparison.objects.filter(project=project, pk=comparison_id).first()
    if comparison is None:
        raise NotFound(_("There is no such comparison in this project."))
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


def with_known_answer(group: dict[str, Any], project: Project) -> dict[str, Any]:
    """A group of a file whose one judgement is the right answer: that becomes `known`, all it says checked
    against the template in force. The explanation is `meta.explanation`, or else the critique.

    Raises `RowError`. Strength, critique and corrections are matters of opinion: they are left out.
    """
    said = group.get("judgements", [])
    if len(said) != 1:
        raise RowError("judgements", f"are {len(said)}; a question needs one right answer")
    given = {key: value for key, value in said[0].items() if key not in BESIDE}
    texts = [candidate.get("text") for candidate in group["candidates"]]
    try:
        columns = answer_to_texts(project.questions, texts, presented_answer(given, None))
    except Invalid as error:
        field, reason = next(iter(error.errors.items()))
        raise RowError(field, reason) from error
    meta = dict(group.get("meta", {}))
    explanation = meta.pop("explanation", None) or said[0].get("critique") or ""
    if not isinstance(explanation, str) or len(explanation) > MAX_EXPLANATION:
        raise RowError("meta.explanation", f"must be a text of {MAX_EXPLANATION:,} characters at most")
    known = {"choice": columns["choice"], "answers": columns["answers"], "explanation": explanation}
    rest = {key: value for key, value in group.items() if key != "judgements"}
    return rest | {"meta": meta, "known": known}


@transaction.atomic
def add_known_answers(*, project: Project, groups: list[dict[str, Any]], job: ImportJob) -> int:
    """Make the groups of an import gold or test questions; how many were comparisons of the project before.

    A group with the prompt and candidates of a comparison gives that one its answer. A new comparison is a
    question only: nobody else is asked to judge it.
    """
    project = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    by_key = {content_of(group).content_key: group for group in groups}
    equal = Comparison.objects.filter(project=project, content_key__in=by_key).order_by("-rank")
    found = dict(equal.values_list("content_key", "pk"))
    new = [key for key in by_key if key not in found]
    added = add_groups(
        project=project,
        groups=[by_key[key] for key in new],
        held_out=job.held_out,
        import_job=job,
        needed=0,
    )
    comparisons = found | dict(zip(new, added, strict=True))
    rows = [
        GoldAnswer(
            project=project,
            comparison_id=comparisons[key],
            purpose=job.use,
            created_by_id=job.created_by_id,
            **group["known"],
        )
        for key, group in by_key.items()
    ]
    values = ["purpose", "choice", "answers", "explanation", "created_by"]
    GoldAnswer.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["comparison"], update_fields=values
    )
    mark_stale(sorted(found.values()))
    return len(groups) - len(new)


@transaction.atomic
def remove_gold_answer(*, project: Project, gold_answer_id: int) -> None:
    """Forget a known answer. What people answered to it stays as it is."""
    project = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    mine = GoldAnswer.objects.filter(project=project)
    found = mine.filter(pk=gold_answer_id).first()
    if found is None:
        raise NotFound(_("There is no such known answer in this project."))
    test = mine.filter(purpose=GoldAnswer.Purpose.QUALIFICATION)
    if project.pass_mark is not None and not test.exclude(pk=found.pk).exists():
        raise Conflict(_("The test needs at least one question; switch the test off first."))
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
