"""The queue: who gets which comparison next, and how slots come back.

Locks are always taken in the order comparisons, members, leases, each by id. Taking the next one locks
the member and then only comparisons that are free (SKIP LOCKED), so it never waits with a lock in hand;
where it has to wait it starts over. Reopening a slot is a transaction of its own that locks comparisons,
then members, and lowers the frontiers. The unique constraints of `Lease` are the guarantee; the locks
make sure that they are never hit.
"""

import json
import random
import uuid
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from django.db import connection, transaction
from django.db.models import F, prefetch_related_objects

from annotation.errors import Conflict, Invalid, NotFound, QueueBusy
from annotation.models import Comparison, Lease, Member, Project, TemplateVersion, User
from annotation.permissions import Action, check

LOOK_AHEAD: Final = 16
ATTEMPTS: Final = 200
EXPIRY_BATCH: Final = 500
_shuffle = random.SystemRandom().shuffle
Result = TypeVar("Result")

# The hot path is written in SQL: building these queries took longer than running them.
LOCK_MEMBER = """
SELECT m.id, m.project_id, m.user_id, m.role, m.frontier, p.questions, p.template_version, p.lease_minutes,
       (SELECT max(c.rank) FROM annotation_comparison c WHERE c.project_id = m.project_id)
FROM annotation_member m JOIN annotation_project p ON p.id = m.project_id
WHERE m.user_id = %(user)s AND m.project_id = coalesce(%(project)s, (
    SELECT c.project_id FROM annotation_lease l JOIN annotation_comparison c ON c.id = l.comparison_id
    WHERE l.id = %(lease)s AND l.annotator_id = %(user)s))
FOR NO KEY UPDATE OF m
"""
AHEAD = """
SELECT c.id, c.rank FROM annotation_comparison c
WHERE c.project_id = %(project)s AND c.open_slots > 0 AND c.rank >= %(frontier)s AND NOT EXISTS (
    SELECT 1 FROM annotation_lease l WHERE l.comparison_id = c.id
    AND l.annotator_id = %(annotator)s AND l.state IN ('open', 'judged', 'skipped'))
ORDER BY c.rank LIMIT %(look_ahead)s
"""
LOCK_FIRST_FREE = """
SELECT * FROM annotation_comparison WHERE id = ANY(%(ids)s) AND open_slots > 0
ORDER BY rank LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
"""
# One statement: close the slot, move the frontier, and hand out the smallest slot that nobody holds.
TAKE = """
WITH closed AS (
    UPDATE annotation_comparison SET open_slots = open_slots - 1 WHERE id = %(comparison)s RETURNING needed
), moved AS (
    UPDATE annotation_member SET frontier = %(frontier)s WHERE id = %(member)s AND frontier <> %(frontier)s
)
INSERT INTO annotation_lease
    (id, comparison_id, annotator_id, slot, "order", template_version,
     state, skip_reason, created_at, expires_at)
SELECT %(lease)s, %(comparison)s, %(annotator)s, min(slot), %(order)s::jsonb, %(version)s,
       'open', '', %(now)s, %(expires)s
FROM closed, generate_series(0, needed - 1) AS slot
WHERE slot NOT IN (SELECT l.slot FROM annotation_lease l
                   WHERE l.comparison_id = %(comparison)s AND l.state IN ('open', 'judged'))
RETURNING slot
"""


class _Locked(Exception):
    """Everything this person could get is locked by others at this moment."""

    def __init__(self, comparison: int) -> None:
        self.comparison = comparison


class _Lapsed(Exception):
    """Nothing is left, but expired leases can be taken back."""

    def __init__(self, project: int) -> None:
        self.project = project


def next_lease(*, project: Project, user: User, after: Lease | None = None, now: datetime) -> Lease | None:
    """The comparison that this person should see next, or None when nothing is left for them.

    Without `after` the oldest open lease again if there is one, so that a reload costs nothing. With `after`
    the one behind that lease; two open leases at most.
    """

    def work() -> Lease | None:
        member = lock_member(project=project.pk, user=user)
        held = list(Lease.objects.open_of(project=project.pk, annotator=user.pk))
        return take_next(member=member, held=held, after=after, now=now)

    return run(work, now=now)


def run(work: Callable[[], Result], *, now: datetime) -> Result:
    """Run `work` in a transaction; where rows are locked or leases lapsed, clear the way and start over."""
    for _ in range(ATTEMPTS):
        try:
            with transaction.atomic():
                return work()
        except _Locked as busy:
            _wait_for(busy.comparison)
        except _Lapsed as lapsed:
            reopen_expired_leases(now=now, project=lapsed.project)
    raise QueueBusy("Too many people are taking comparisons at this moment; try again.")


def lock_member(*, user: User, project: int | None = None, lease: uuid.UUID | None = None) -> Member:
    """This person's place in the queue of a project, or of their lease's project, locked. All their leases
    wait for it. It carries `last_rank`, and of its project only what judging needs.
    """
    with connection.cursor() as cursor:
        cursor.execute(LOCK_MEMBER, {"user": user.pk, "project": project, "lease": lease})
        row = cursor.fetchone()
    if row is None:
        raise NotFound("It does not exist, or you are not a member of its project.")
    *own, questions, template_version, lease_minutes, last_rank = row
    check(user, Action.JUDGE, role=own[3], project=own[1])
    member = Member.from_db(connection.alias, ["id", "project_id", "user_id", "role", "frontier"], own)
    values = [member.project_id, json.loads(questions), template_version, lease_minutes]
    member.project = Project.from_db(
        connection.alias, ["id", "questions", "template_version", "lease_minutes"], values
    )
    member.last_rank = last_rank  # type: ignore[attr-defined]
    return member


def take_next(*, member: Member, held: list[Lease], after: Lease | None, now: datetime) -> Lease | None:
    """One of the open leases that the locked member holds (oldest first), or a new one if there is no other.

    So nobody takes a third while they hold two. Raises `_Locked` or `_Lapsed`; see `run`.
    """
    if after is not None:
        behind = [lease for lease in held if (lease.created_at, lease.pk) > (after.created_at, after.pk)]
        held_elsewhere = [lease for lease in held if lease.pk != after.pk]
        again = next(iter(behind or held_elsewhere), None)
    else:
        again = next(iter(held), None)
    if again is not None:
        if again.expires_at < now:
            again.expires_at = expiry(member.project, now)
            again.save(update_fields=["expires_at"])
        again.comparison.project = member.project
        prefetch_related_objects([again.comparison], "candidates__image")
        return again
    return _take_new(member=member, now=now)


def _take_new(*, member: Member, now: datetime) -> Lease | None:
    values = {"project": member.project_id, "frontier": member.frontier, "annotator": member.user_id}
    with connection.cursor() as cursor:
        cursor.execute(AHEAD, values | {"look_ahead": LOOK_AHEAD})
        ahead = cursor.fetchall()
    if not ahead:
        if Lease.objects.lapsed(now=now).filter(comparison__project=member.project_id).exists():
            raise _Lapsed(member.project_id)
        _move_past_the_last(member)
        return None
    free = Comparison.objects.raw(LOCK_FIRST_FREE, {"ids": [pk for pk, _ in ahead]})
    comparison = next(iter(free), None)
    if comparison is None:
        raise _Locked(ahead[0][0])
    comparison.project = member.project
    return _insert_lease(comparison=comparison, member=member, frontier=ahead[0][1], now=now)


def _move_past_the_last(member: Member) -> None:
    """`last_rank` was read before the queue, so a comparison added in between stays ahead of the frontier."""
    last_rank: int | None = getattr(member, "last_rank", None)
    if last_rank is not None and member.frontier <= last_rank:
        Member.objects.filter(pk=member.pk).update(frontier=last_rank + 1)


def _insert_lease(*, comparison: Comparison, member: Member, frontier: int, now: datetime) -> Lease:
    prefetch_related_objects([comparison], "candidates__image")
    order = list(range(len(comparison.candidates.all())))
    _shuffle(order)
    lease = Lease(
        id=uuid.uuid4(),
        comparison=comparison,
        annotator_id=member.user_id,
        order=order,
        template_version=member.project.template_version,
        created_at=now,
        expires_at=expiry(member.project, now),
    )
    values: dict[str, Any] = {
        "comparison": comparison.pk,
        "member": member.pk,
        "frontier": frontier,
        "lease": lease.pk,
        "annotator": member.user_id,
        "order": json.dumps(order),
        "version": lease.template_version,
        "now": now,
        "expires": lease.expires_at,
    }
    with connection.cursor() as cursor:
        cursor.execute(TAKE, values)
        lease.slot = cursor.fetchone()[0]
    lease._state.adding = False
    return lease


def questions_of(lease: Lease, project: Project) -> list[dict[str, Any]]:
    """The template that this lease was handed out under, however it was changed meanwhile."""
    if lease.template_version == project.template_version:
        return project.questions
    return TemplateVersion.objects.get(project=project, version=lease.template_version).questions


def expiry(project: Project, now: datetime) -> datetime:
    return now + timedelta(minutes=project.lease_minutes)


def _wait_for(comparison: int) -> None:
    """Until whoever holds this row is done. Nothing else is locked meanwhile, so there is no deadlock."""
    with transaction.atomic():
        Comparison.objects.select_for_update(no_key=True).filter(pk=comparison).order_by("pk").first()


def lease_of(*, lease_id: uuid.UUID, annotator: User) -> Lease:
    """A lease in this person's own hands or past; anybody else's does not exist for them."""
    mine = Lease.objects.visible_to(annotator, Action.JUDGE).filter(pk=lease_id, annotator=annotator)
    lease = mine.to_present().first()
    if lease is None:
        raise NotFound("There is no such lease.")
    return lease


def renew_lease(*, lease_id: uuid.UUID, annotator: User, now: datetime) -> Lease:
    """Keep an open comparison for another full term."""
    with transaction.atomic():
        lease = lease_of(lease_id=lease_id, annotator=annotator)
        lock_member(project=lease.comparison.project_id, user=annotator)
        lease.refresh_from_db(fields=["state"])
        if lease.state != Lease.State.OPEN:
            raise Conflict(f"This comparison is no longer in your hands: its lease is {lease.state}.")
        lease.expires_at = expiry(lease.comparison.project, now)
        lease.save(update_fields=["expires_at"])
    return lease


def skip_lease(*, lease_id: uuid.UUID, annotator: User, reason: str = "", now: datetime) -> Lease:
    """Put a comparison back for others; it does not come to this person again. A repeat changes nothing."""
    if len(reason) > 500:
        raise Invalid({"reason": f"has {len(reason)} characters; 500 at most."})
    lease = lease_of(lease_id=lease_id, annotator=annotator)
    with transaction.atomic():
        _lock([lease.comparison_id])
        lease.refresh_from_db(fields=["state"])
        if lease.state == Lease.State.SKIPPED:
            return lease
        if lease.state != Lease.State.OPEN:
            raise Conflict(f"This comparison can no longer be skipped: its lease is {lease.state}.")
        lease.state, lease.skip_reason, lease.closed_at = Lease.State.SKIPPED, reason, now
        lease.save(update_fields=["state", "skip_reason", "closed_at"])
        _reopen([lease.comparison_id])
    return lease


def give_back(*, comparisons: Iterable[int], annotator: User) -> None:
    """Take comparisons out of a person's hands, as if their time had run out."""
    ids = sorted(set(comparisons))
    with transaction.atomic():
        _lock(ids)
        leases = Lease.objects.filter(comparison__in=ids, annotator=annotator, state=Lease.State.OPEN)
        held = list(leases.order_by("pk").values_list("comparison_id", flat=True))
        leases.update(state=Lease.State.EXPIRED)
        _reopen(held)


def reopen_expired_leases(*, now: datetime, project: int | None = None) -> int:
    """Take back what people left lying; the number of slots that are open again."""
    lapsed = Lease.objects.lapsed(now=now)
    if project is not None:
        lapsed = lapsed.filter(comparison__project=project)
    total = 0
    while ids := sorted(set(lapsed.values_list("comparison_id", flat=True)[:EXPIRY_BATCH])):
        with transaction.atomic():
            _lock(ids)
            leases = Lease.objects.lapsed(now=now).filter(
                comparison__in=ids
            )  # again: some were answered since
            found = list(leases.order_by("pk").values_list("pk", "comparison_id"))
            Lease.objects.filter(pk__in=[pk for pk, _ in found]).update(
                state=Lease.State.EXPIRED, closed_at=now
            )
            _reopen([comparison for _, comparison in found])
        total += len(found)
    return total


def _lock(comparisons: list[int]) -> None:
    """Lock comparisons and then everybody's place in their queues: the frontiers must not move meanwhile."""
    rows = Comparison.objects.select_for_update(no_key=True).filter(pk__in=comparisons).order_by("pk")
    projects = {project for _, project in rows.values_list("pk", "project_id")}
    members = Member.objects.select_for_update(no_key=True).filter(project__in=projects).order_by("pk")
    list(members.values_list("pk"))


def _reopen(comparisons: list[int]) -> None:
    """One more open slot for each (locked) comparison named, and no frontier beyond it."""
    lowest: dict[int, int] = {}
    for comparison in Comparison.objects.filter(pk__in=comparisons).order_by("pk"):
        slots = comparisons.count(comparison.pk)
        Comparison.objects.filter(pk=comparison.pk).update(open_slots=F("open_slots") + slots)
        lowest[comparison.project_id] = min(
            comparison.rank, lowest.get(comparison.project_id, comparison.rank)
        )
    for project, rank in lowest.items():
        Member.objects.filter(project=project, frontier__gt=rank).update(frontier=rank)
