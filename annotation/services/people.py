"""What managers decide about one member: group and limits, pausing, and setting aside what they judged."""

from datetime import datetime
from typing import Any, Final

from django.db import transaction
from django.db.models import F, Max, QuerySet
from django.utils.translation import gettext as _

from annotation.errors import Conflict, Invalid, NotFound
from annotation.models import (
    AnnotatorGroup,
    BulkChange,
    Comparison,
    Judgement,
    Kind,
    Lease,
    Member,
    Project,
    SetAside,
    User,
)
from annotation.services import bulk, reopening
from annotation.services.counting import mark_stale
from annotation.services.strategies import lock_members, step_of

BATCH: Final = 500  # comparisons in one transaction
CHANGEABLE: Final = ("group", "quota", "daily_cap", "excused")


def member_of(project: Project, user: int) -> Member:
    """The membership of a user, or NotFound."""
    member = Member.objects.filter(project=project, user=user).select_related("user", "group").first()
    if member is None:
        raise NotFound(_("There is no such member."))
    return member


@transaction.atomic
def update_member(*, project: Project, user: int, now: datetime, **changes: Any) -> Member:
    """Change a member's group, quota or daily cap (None: as the project says); `excused=True` lets them work
    without the test, `excused=False` asks for it again."""
    if unknown := changes.keys() - set(CHANGEABLE):
        raise Invalid(dict.fromkeys(sorted(unknown), _("cannot be changed here.")))
    member = locked_member(project, user)
    group: AnnotatorGroup | None = changes.get("group", member.group)
    if group is not None and group.project_id != project.pk:
        raise Invalid({"group": _("There is no such group in this project.")})
    if group != member.group:
        member.group, member.frontier = group, 0  # other slots are theirs now
    if "excused" in changes:
        member.qualified_at = (member.qualified_at or now) if changes["excused"] else None
    member.quota = changes.get("quota", member.quota)
    member.daily_cap = changes.get("daily_cap", member.daily_cap)
    member.save(update_fields=["group", "frontier", "quota", "daily_cap", "qualified_at"])
    return member


@transaction.atomic
def pause_member(*, project: Project, user: int, reason: str, now: datetime) -> Member:
    """Stop handing work to a member. What they hold goes back to others; what they did stays."""
    if len(reason) > 500:
        raise Invalid({"reason": _("has more than 500 characters.")})
    reopening.give_back(project=project.pk, annotator=member_of(project, user).user, now=now)
    member = locked_member(project, user)
    member.paused_at, member.paused_reason = member.paused_at or now, reason
    member.save(update_fields=["paused_at", "paused_reason"])
    return member


@transaction.atomic
def resume_member(*, project: Project, user: int) -> Member:
    """Let a paused member work again."""
    member = locked_member(project, user)
    member.paused_at, member.paused_reason = None, ""
    member.save(update_fields=["paused_at", "paused_reason"])
    return member


def locked_member(project: Project, user: int) -> Member:
    """The membership of a user, locked until the end of the transaction."""
    member = member_of(project, user)
    Member.objects.select_for_update(no_key=True).get(pk=member.pk)
    member.refresh_from_db()
    return member


def set_aside(
    *,
    project: Project,
    user: int,
    by: User,
    reason: str,
    since: datetime | None = None,
    now: datetime,
) -> SetAside:
    """Let a member's regular judgements no longer count, and open their slots for others.

    Nothing is deleted: the judgements stay with the reason, and `restore` brings them back. With `since` only
    those given then or later. Gold questions and repeats stay: they are the evidence. Many are set aside in
    the background; the record's `count` grows.
    """
    if not reason.strip() or len(reason) > 500:
        raise Invalid({"reason": _("Say why, in 500 characters at most.")})
    annotator = member_of(project, user).user
    record = SetAside.objects.create(
        project=project, annotator=annotator, reason=reason.strip(), created_by=by, created_at=now
    )
    theirs = _given(record, since=since)
    subject = {
        "record": record.pk,
        "since": since.isoformat() if since else None,
        "last": theirs.aggregate(last=Max("pk"))["last"] or 0,
    }
    bulk.start(project, BulkChange.Kind.SET_ASIDE, total=theirs.count(), subject=subject)
    record.refresh_from_db()
    return record


def _given(record: SetAside, *, since: datetime | None) -> QuerySet[Judgement]:
    """What the record's annotator said in its project and that counts."""
    theirs = Judgement.objects.standing().filter(
        comparison__project=record.project_id,
        annotator=record.annotator_id,
        kind=Kind.REGULAR,
        lease__isnull=False,
    )
    return theirs if since is None else theirs.filter(created_at__gte=since)


def set_aside_batch(change: BulkChange) -> bulk.Batch:
    """The next comparisons of an annotator; what they said after it was decided stays."""
    record, since = SetAside.objects.get(pk=change.subject["record"]), change.subject["since"]
    theirs = _given(record, since=datetime.fromisoformat(since) if since else None)
    theirs = theirs.filter(pk__lte=change.subject["last"])
    ids = next_comparisons(theirs, after=change.position)
    reopening.lock(ids)
    found = list(theirs.filter(comparison__in=ids).order_by("pk").values_list("pk", "lease"))
    leases = [lease for _pk, lease in found if lease is not None]
    Judgement.objects.filter(pk__in=[pk for pk, _lease in found]).update(
        set_aside=record, set_aside_at=record.created_at
    )
    reopening.reopen(leases)
    Lease.objects.filter(pk__in=leases).update(state=Lease.State.SET_ASIDE)
    SetAside.objects.filter(pk=record.pk).update(count=F("count") + len(found))
    mark_stale(ids)
    return bulk.Batch(len(found), ids[-1] if ids else change.position, finished=len(ids) < BATCH)


def next_comparisons(judgements: QuerySet[Judgement], *, after: int) -> list[int]:
    """The comparisons of a batch that these judgements belong to, by id."""
    rows = judgements.filter(comparison__gt=after).order_by("comparison_id")
    return list(rows.values_list("comparison_id", flat=True).distinct()[:BATCH])


def restore(*, record: SetAside, by: User, now: datetime) -> SetAside:
    """Let judgements that were set aside count again.

    Each takes its slot back if one is open. Where others have filled it meanwhile, the comparison gets one
    slot more: nobody's work is lost. Many are brought back in the background.
    """
    if record.unfinished_change():
        raise Conflict(_("These judgements are still being set aside; try again when that is done."))
    if not SetAside.objects.filter(pk=record.pk, restored_at=None).update(restored_at=now, restored_by=by):
        raise Conflict(_("These judgements were restored already."))
    theirs = Judgement.objects.filter(set_aside=record)
    bulk.start(record.project, BulkChange.Kind.RESTORE, total=theirs.count(), subject={"record": record.pk})
    record.refresh_from_db()
    return record


def restore_batch(change: BulkChange) -> bulk.Batch:
    """The next comparisons of a record."""
    theirs = Judgement.objects.filter(set_aside=change.subject["record"])
    ids = next_comparisons(theirs, after=change.position)
    rows = Comparison.objects.select_for_update(no_key=True, of=("self",)).filter(pk__in=ids).order_by("pk")
    comparisons = {comparison.pk: comparison for comparison in rows.select_related("project")}
    lock_members([change.project_id])
    found = list(theirs.filter(comparison__in=ids).select_related("lease").order_by("pk"))
    for judgement in found:
        if judgement.lease is not None:
            _take_slot_back(comparisons[judgement.comparison_id], judgement.lease)
    Judgement.objects.filter(pk__in=[judgement.pk for judgement in found]).update(
        set_aside=None, set_aside_at=None
    )
    mark_stale(ids)
    return bulk.Batch(len(found), ids[-1] if ids else change.position, finished=len(ids) < BATCH)


def _take_slot_back(comparison: Comparison, lease: Lease) -> None:
    """The lease is judged again, in a shared open slot or in one that is added. The comparison is locked."""
    live = Lease.objects.live().filter(comparison=comparison, slot__isnull=False)
    taken = set(live.values_list("slot", flat=True))
    if comparison.open_slots > comparison.reserved_open:
        comparison.open_slots -= 1
        comparison.queue_key += step_of(comparison.project)
        comparison.save(update_fields=["open_slots", "queue_key"])
        lease.slot = next(slot for slot in range(comparison.needed) if slot not in taken)
    else:
        comparison.needed += 1
        comparison.save(update_fields=["needed"])
        lease.slot = next(slot for slot in range(comparison.needed) if slot not in taken)
    lease.state, lease.reserved_for = Lease.State.JUDGED, None
    lease.save(update_fields=["slot", "state", "reserved_for"])
