"""Changes by hand: texts that nobody has judged, judgements with a reason, comparisons that go."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

from django.db import transaction
from django.utils.translation import gettext as _

from annotation.errors import Conflict, Invalid
from annotation.formats.schema import check_prompt, check_text
from annotation.models import Candidate, Comparison, Judgement, JudgementChange, Lease, SetAside, User
from annotation.prompts import pictures_of
from annotation.services import reopening
from annotation.services.answers import known_answer
from annotation.services.comparisons import content_of, digest_of
from annotation.services.counting import count_now, mark_stale
from annotation.services.searching import read_words
from annotation.template import NOT_ANSWERS

MAX_REASON: Final = 500


@transaction.atomic
def edit_comparison(
    *,
    comparison: Comparison,
    prompt: Any = None,
    texts: list[Any] | None = None,
    held_out: bool | None = None,
) -> Comparison:
    """Change the prompt, the candidates' texts or what a comparison is used for.

    Prompt and texts only while nobody has judged it or has it open: a judgement is about what was shown.
    """
    row = Comparison.objects.select_for_update(no_key=True).get(pk=comparison.pk)
    candidates = list(Candidate.objects.filter(comparison=row).select_related("image").order_by("index"))
    if held_out is not None:
        row.held_out = held_out
    if prompt is not None or texts is not None:
        _refuse_if_seen(row)
        _set_contents(row, candidates, prompt, texts)
    row.save()
    read_words(project=row.project_id, first=row.pk, last=row.pk)
    return row


def _refuse_if_seen(comparison: Comparison) -> None:
    if Judgement.objects.filter(comparison=comparison).exists():
        raise Conflict(_("Somebody has judged this comparison; what they judged stays as they saw it."))
    if Lease.objects.filter(comparison=comparison, state=Lease.State.OPEN).exists():
        raise Conflict(_("Somebody has this comparison open; try again when they are done."))


def _set_contents(row: Comparison, candidates: list[Candidate], prompt: Any, texts: list[Any] | None) -> None:
    errors: dict[str, str] = {}
    if prompt is not None:
        row.prompt = _checked(prompt, "prompt", errors, pictures=pictures_of(row.prompt))
    if texts is not None and len(texts) != len(candidates):
        errors["candidates"] = _("There are %(count)s candidates.") % {"count": len(candidates)}
    elif texts is not None:
        for index, (candidate, text) in enumerate(zip(candidates, texts, strict=True)):
            if text is not None and candidate.image_id is None:
                candidate.text = _checked(text, f"candidates.{index}", errors)
        contents = [candidate.image_id or digest_of(candidate.text) for candidate in candidates]
        if len(contents) > 1 and len(set(contents)) == 1:
            errors["candidates"] = _("The candidates are all the same, so there is nothing to compare.")
    if errors:
        raise Invalid(errors)
    Candidate.objects.bulk_update(candidates, ["text"])
    shown = [{"image": item.image} if item.image else {"text": item.text} for item in candidates]
    content = content_of({"prompt": row.prompt, "candidates": shown})
    row.prompt_key, row.content_key = content.prompt_key, content.content_key


def _checked(value: Any, field: str, errors: dict[str, str], *, pictures: list[str] | None = None) -> Any:
    """`pictures` are those that a prompt may show: its own."""
    try:
        if "\x00" in str(value):
            raise ValueError(_("contains a NUL character"))
        if pictures is None:
            return check_text(value)
        checked = check_prompt(value)
        if not set(pictures_of(checked)) <= set(pictures):  # type: ignore[arg-type]
            raise ValueError(_("names a picture that this prompt does not have"))
        return checked
    except ValueError as error:
        errors[field] = str(error)
        return value


@transaction.atomic
def delete_comparison(*, comparison: Comparison) -> None:
    """Delete a comparison and everything that was said about it. What a run has learnt stays learnt."""
    reopening.lock([comparison.pk])
    Judgement.objects.filter(comparison=comparison.pk).delete()
    count_now(comparison.pk)
    Lease.objects.filter(comparison=comparison.pk).delete()
    Comparison.objects.filter(pk=comparison.pk).delete()


@transaction.atomic
def delete_untouched(*, comparisons: Collection[int]) -> int:
    """Delete those that nobody has judged, skipped or holds; how many."""
    reopening.lock(sorted(comparisons))
    found = Comparison.objects.filter(pk__in=comparisons, judgements=None, leases=None)
    return len([row.delete() for row in found])


@transaction.atomic
def correct_judgement(
    *, judgement: Judgement, answer: dict[str, Any], by: User, reason: str, now: datetime
) -> Judgement:
    """Put another answer in a judgement's place, in canonical indices; what it said before is kept.

    `answer` is all that the judgement says from now on: choice, strength and the template's other keys.
    """
    reason = _reason(reason)
    row = (
        Judgement.objects.select_for_update(no_key=True)
        .select_related("comparison__project")
        .get(pk=judgement.pk)
    )
    if row.undone_at is not None:
        raise Conflict(_("This judgement was taken back; there is nothing to correct."))
    columns = known_answer(row.comparison.project, row.comparison, answer, version=row.template_version)
    before = {"choice": row.choice, "strength": row.strength, **row.answers}
    JudgementChange.objects.create(judgement=row, before=before, reason=reason, changed_by=by, changed_at=now)
    beside = {name: value for name, value in row.answers.items() if name in NOT_ANSWERS}
    for name, value in columns.items():
        setattr(row, name, beside | value if name == "answers" else value)
    row.save(update_fields=list(columns))
    mark_stale([row.comparison_id])
    return row


@transaction.atomic
def set_aside_judgement(*, judgement: Judgement, by: User, reason: str, now: datetime) -> SetAside:
    """Let one judgement no longer count, and open its slot for others; `restore` brings it back."""
    reason = _reason(reason)
    reopening.lock([judgement.comparison_id])
    row = Judgement.objects.select_related("comparison", "lease").get(pk=judgement.pk)
    if row.undone_at is not None or row.set_aside_at is not None:
        raise Conflict(_("This judgement does not count any more already."))
    record = SetAside.objects.create(
        project_id=row.comparison.project_id,
        annotator_id=row.annotator_id,
        reason=reason,
        created_by=by,
        created_at=now,
        count=1,
    )
    Judgement.objects.filter(pk=row.pk).update(set_aside=record, set_aside_at=now)
    if row.lease is not None and row.lease.state == Lease.State.JUDGED:
        reopening.reopen([row.lease.pk])
        Lease.objects.filter(pk=row.lease.pk).update(state=Lease.State.SET_ASIDE)
    mark_stale([row.comparison_id])
    return record


def _reason(reason: str) -> str:
    if not reason.strip() or len(reason) > MAX_REASON:
        raise Invalid({"reason": _("Say why, in 500 characters at most.")})
    return reason.strip()
