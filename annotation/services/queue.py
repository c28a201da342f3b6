"""The queue: who gets which comparison next.

Locks are always taken in the order comparisons, members, leases, each by id. Taking the next one locks
the member and then only comparisons that are free (SKIP LOCKED), so it never waits with a lock in hand;
where it has to wait it starts over. What reopens a slot (`annotation.services.reopening`) is a transaction of
its own that locks comparisons, then members, and lowers the frontiers. The unique constraints of `Lease` are
the guarantee; the locks make sure that they are never hit. See docs/adr/0008 and 0009.
"""

import json
import random
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

from django.db import OperationalError, connection, transaction
from django.db.models import prefetch_related_objects
from django.utils.translation import gettext as _
from psycopg.errors import LockNotAvailable

from annotation.errors import NotFound, QueueBusy
from annotation.models import Candidate, Comparison, Kind, Lease, Media, Member, Project, User
from annotation.permissions import Action, check, find
from annotation.services import checks, eligibility, qualification
from annotation.services.statements import columns, execute, fetch, instance_of
from annotation.services.strategies import step_of

LOOK_AHEAD: Final = 16
ATTEMPTS: Final = 200
_shuffle = random.SystemRandom().shuffle
Result = TypeVar("Result")

MEMBER: Final = (
    "id", "project_id", "user_id", "role", "frontier", "group_id", "served", "answered", "answered_on",
    "answered_that_day", "quota", "daily_cap", "qualified_at", "consented_version", "paused_at",
    "withdrawn_at",
)  # fmt: skip
PROJECT: Final = (
    "id", "questions", "template_version", "show_suggestions", "lease_minutes", "queue_strategy", "quota",
    "daily_cap", "gold_rate", "repeat_rate", "repeat_distance", "pass_mark", "test_attempts",
    "consent_version",
)  # fmt: skip

# SKIP LOCKED may wait all the same: for a newer version of a row that was changed meanwhile. Who holds a
# member gives up before Postgres looks for deadlocks (after a second), so that nobody else is their victim.
PATIENCE: Final = "500ms"
SILENCE: Final = "30s"  # from then on nobody waits for a web process that stands still with a member in hand
# The hot path is written in SQL: building these queries took longer than running them.
LOCK_MEMBER = f"""
SELECT {", ".join(f"m.{name}" for name in MEMBER)}, {", ".join(f"p.{name}" for name in PROJECT)},
    set_config('lock_timeout', '{PATIENCE}', true),
    set_config('idle_in_transaction_session_timeout', '{SILENCE}', true)
FROM annotation_member m JOIN annotation_project p ON p.id = m.project_id
WHERE m.user_id = %(user)s AND m.project_id = coalesce(%(project)s, (
    SELECT c.project_id FROM annotation_lease l JOIN annotation_comparison c ON c.id = l.comparison_id
    WHERE l.id = %(lease)s AND l.annotator_id = %(user)s))
FOR NO KEY UPDATE OF m
"""  # noqa: S608  names of ours
# OFFSET 0 keeps the planner from joining: it asks the index for each row, whatever the statistics say.
AHEAD = f"""
SELECT c.id, c.queue_key, NULL::bigint AS group_id FROM annotation_comparison c
WHERE c.project_id = %(project)s AND c.open_slots > c.reserved_open AND c.queue_key >= %(frontier)s
AND NOT EXISTS (
    SELECT 1 FROM annotation_lease l WHERE l.comparison_id = c.id
    AND l.annotator_id = %(annotator)s AND l.state IN ('open', 'judged', 'skipped', 'aside') OFFSET 0)
ORDER BY c.queue_key LIMIT {LOOK_AHEAD}
"""  # noqa: S608
AHEAD_OF_GROUP = f"""
(SELECT r.comparison_id, r.queue_key, r.group_id FROM annotation_reservation r
WHERE r.group_id = %(group)s AND r.open_slots > 0 AND r.queue_key >= %(frontier)s
AND NOT EXISTS (
    SELECT 1 FROM annotation_lease l WHERE l.comparison_id = r.comparison_id
    AND l.annotator_id = %(annotator)s AND l.state IN ('open', 'judged', 'skipped', 'aside') OFFSET 0)
ORDER BY r.queue_key LIMIT {LOOK_AHEAD})
UNION ALL ({AHEAD}) ORDER BY queue_key, group_id LIMIT {LOOK_AHEAD}
"""  # noqa: S608
# The last place in the queue with an open slot; what is added later, or reopened, lowers the frontiers.
LAST_OPEN = """
SELECT greatest(
    (SELECT max(queue_key) FROM annotation_comparison
     WHERE project_id = %(project)s AND open_slots > reserved_open),
    (SELECT max(queue_key) FROM annotation_reservation WHERE group_id = %(group)s AND open_slots > 0))
"""
# A comparison with its candidates and their pictures.
READ = f"""
SELECT {columns(Comparison, "c")}, (
    SELECT jsonb_agg(jsonb_build_array(to_jsonb(a), to_jsonb(m) - 'created_at') ORDER BY a.index)
    FROM annotation_candidate a LEFT JOIN annotation_media m ON m.id = a.image_id
    WHERE a.comparison_id = c.id)
FROM annotation_comparison c WHERE c.id = ANY(%(ids)s::bigint[])
"""  # noqa: S608
LOCK_FIRST_FREE = f"""
{READ} AND (c.open_slots > c.reserved_open OR (c.open_slots > 0 AND c.id = ANY(%(reserved)s::bigint[])))
ORDER BY array_position(%(ids)s::bigint[], c.id) LIMIT 1 FOR NO KEY UPDATE OF c SKIP LOCKED
"""
# One statement: close the slot, move the frontier, and hand out the smallest slot that nobody holds.
TAKE = """
WITH {lane} closed AS (
    UPDATE annotation_comparison SET open_slots = open_slots - 1, queue_key = queue_key + %(step)s{reserved}
    WHERE id = %(comparison)s {if_lane} RETURNING needed
), moved AS (
    UPDATE annotation_member SET frontier = %(frontier)s, served = served + 1 WHERE id = %(member)s
)
INSERT INTO annotation_lease
    (id, comparison_id, annotator_id, kind, slot, reserved_for_id, "order", template_version,
     state, skip_reason, created_at, expires_at)
SELECT %(lease)s::uuid, %(comparison)s, %(annotator)s, 'regular', min(slot), %(group)s::bigint,
       %(order)s::jsonb, %(version)s, 'open', '', %(now)s::timestamptz, %(expires)s::timestamptz
FROM closed, generate_series(0, needed - 1) AS slot
WHERE slot NOT IN (SELECT l.slot FROM annotation_lease l
                   WHERE l.comparison_id = %(comparison)s AND l.slot IS NOT NULL
                   AND l.state IN ('open', 'judged'))
HAVING count(*) > 0
RETURNING slot
"""
LANE = """lane AS (
    UPDATE annotation_reservation SET open_slots = open_slots - 1, queue_key = queue_key + %(step)s
    WHERE comparison_id = %(comparison)s AND group_id = %(group)s AND open_slots > 0 RETURNING id
),"""
TAKE_SHARED: Final = TAKE.format(lane="", reserved="", if_lane="AND open_slots > reserved_open")
TAKE_RESERVED: Final = TAKE.format(
    lane=LANE, reserved=", reserved_open = reserved_open - 1", if_lane="AND EXISTS (SELECT 1 FROM lane)"
)
HAND_OUT = """
WITH moved AS (
    UPDATE annotation_member SET frontier = %(frontier)s, served = served + 1 WHERE id = %(member)s
)
INSERT INTO annotation_lease
    (id, comparison_id, annotator_id, kind, "order", template_version,
     state, skip_reason, created_at, expires_at)
VALUES (%(lease)s, %(comparison)s, %(annotator)s, %(kind)s, %(order)s::jsonb, %(version)s,
        'open', '', %(now)s, %(expires)s)
"""


class _Ahead(NamedTuple):
    comparison: int
    key: int
    group: int | None  # whose reserved slot it is


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
    the one behind that lease; two open leases at most. Raises `Blocked` for whom a manager paused, and who
    has not agreed to the project's text.
    """

    def work() -> Lease | None:
        member = lock_member(project=project.pk, user=user)
        eligibility.check_allowed(member)
        held = list(Lease.objects.open_of(project=project.pk, annotator=user.pk))
        return take_next(member=member, held=held, after=after, now=now)

    return run(work, now=now)


def run(work: Callable[[], Result], *, now: datetime) -> Result:
    """Run `work` in a transaction; where rows are locked or leases lapsed, clear the way and start over.

    The same when it has waited too long with a member in hand (`PATIENCE`).
    """
    from annotation.services.reopening import reopen_expired_leases

    for _attempt in range(ATTEMPTS):
        try:
            with transaction.atomic():
                return work()
        except _Locked as busy:
            _wait_for(busy.comparison)
        except _Lapsed as lapsed:
            reopen_expired_leases(now=now, project=lapsed.project)
        except OperationalError as error:
            if not isinstance(error.__cause__, LockNotAvailable):
                raise
    raise QueueBusy(_("Too many people are taking comparisons at this moment; try again."))


def lock_member(*, user: User, project: int | None = None, lease: uuid.UUID | None = None) -> Member:
    """This person's place in the queue of a project, or of their lease's project, locked. All their leases
    wait for it. Of its project it carries only what assigning and judging need. Only within `run`, which
    starts over when others hold it for long (`PATIENCE`).
    """
    row = next(iter(fetch(LOCK_MEMBER, {"user": user.pk, "project": project, "lease": lease})), None)
    if row is None:
        raise NotFound(_("It does not exist, or you are not a member of its project."))
    member = instance_of(Member, row[: len(MEMBER)], MEMBER)
    check(user, Action.JUDGE, role=member.role, project=member.project_id)
    member.project = instance_of(Project, row[len(MEMBER) : len(MEMBER) + len(PROJECT)], PROJECT)
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
    if eligibility.why_not(member, holding=len(held), now=now) is not None:
        return None
    return _take_new(member=member, now=now)


def _take_new(*, member: Member, now: datetime) -> Lease | None:
    if qualification.is_due(member):
        question = qualification.next_question(member, now=now)
        if question is None:
            return None
        return hand_out(member, question, Kind.QUALIFICATION, frontier=member.frontier, now=now)
    ahead = _look_ahead(member)
    if not ahead:
        _move_past_the_last(member, now=now)
        return None
    if (check := checks.check_for(member)) is not None:
        return hand_out(member, *check, frontier=ahead[0].key, now=now)
    first = {item.comparison: item for item in reversed(ahead)}  # a reserved slot before a shared one
    ids = list(dict.fromkeys(item.comparison for item in ahead))
    reserved = [pk for pk in ids if first[pk].group is not None]
    comparison = _read(LOCK_FIRST_FREE, {"ids": ids, "reserved": reserved})
    if comparison is None:
        raise _Locked(ids[0])
    comparison.project = member.project
    taken = first[comparison.pk]
    others = [item.key for item in ahead if item.comparison != comparison.pk]
    frontier = others[0] if others else taken.key + 1
    return _take(comparison, member=member, group=taken.group, frontier=frontier, now=now)


def _look_ahead(member: Member) -> list[_Ahead]:
    values = {
        "project": member.project_id,
        "frontier": member.frontier,
        "annotator": member.user_id,
        "group": member.group_id,
    }
    return [_Ahead(*row) for row in fetch(AHEAD if member.group_id is None else AHEAD_OF_GROUP, values)]


def _read(statement: str, values: dict[str, Any]) -> Comparison | None:
    """What `READ`, or a statement made of it, finds."""
    row = next(iter(fetch(statement, values)), None)
    if row is None:
        return None
    comparison = instance_of(Comparison, row[:-1])
    candidates = []
    for own, picture in json.loads(row[-1] or "[]"):
        candidate = Candidate(**own)
        candidate.image = None if picture is None else Media(**picture)
        candidates.append(candidate)
    prefetched: Any = Candidate.objects.all()  # as the ORM remembers what was prefetched
    prefetched._result_cache = candidates
    comparison._prefetched_objects_cache = {"candidates": prefetched}  # type: ignore[attr-defined]
    return comparison


def _move_past_the_last(member: Member, *, now: datetime) -> None:
    """Remember that nothing is open for this member, unless leases lapsed.

    The place is read before the queue is read again: what was added in between stays ahead of the frontier.
    """
    if Lease.objects.lapsed(now=now).filter(comparison__project=member.project_id).exists():
        raise _Lapsed(member.project_id)
    with connection.cursor() as cursor:
        cursor.execute(LAST_OPEN, {"project": member.project_id, "group": member.group_id})
        (last,) = cursor.fetchone()
    if last is not None and last >= member.frontier and not _look_ahead(member):
        Member.objects.filter(pk=member.pk).update(frontier=last + 1)


def _take(
    comparison: Comparison, *, member: Member, group: int | None, frontier: int, now: datetime
) -> Lease:
    """A slot of the locked comparison."""
    lease, values = _new_lease(comparison, member=member, kind=Kind.REGULAR, frontier=frontier, now=now)
    values |= {"group": group, "step": step_of(member.project)}
    taken = fetch(TAKE_SHARED if group is None else TAKE_RESERVED, values)
    if not taken:  # the slot reserved for this group went between looking and locking
        raise _Locked(comparison.pk)
    lease.slot, lease.reserved_for_id = taken[0][0], group
    return lease


def hand_out(member: Member, comparison_id: int, kind: Kind, *, frontier: int, now: datetime) -> Lease:
    """A comparison that fills no slot."""
    comparison = _read(READ, {"ids": [comparison_id]})
    assert comparison is not None  # a foreign key names it
    comparison.project = member.project
    lease, values = _new_lease(comparison, member=member, kind=kind, frontier=frontier, now=now)
    execute(HAND_OUT, values | {"kind": kind.value})
    return lease


def random_order(size: int) -> list[int]:
    """In which the candidates of a comparison are shown to one person."""
    order = list(range(size))
    _shuffle(order)
    return order


def _new_lease(
    comparison: Comparison, *, member: Member, kind: Kind, frontier: int, now: datetime
) -> tuple[Lease, dict[str, Any]]:
    """A lease in a new random order, and what the statements that insert it need."""
    order = random_order(len(comparison.candidates.all()))
    lease = Lease(
        id=uuid.uuid4(),
        comparison=comparison,
        annotator_id=member.user_id,
        kind=kind,
        order=order,
        template_version=member.project.template_version,
        created_at=now,
        expires_at=expiry(member.project, now),
    )
    lease._state.adding = False
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
    return lease, values


def expiry(project: Project, now: datetime) -> datetime:
    return now + timedelta(minutes=project.lease_minutes)


def _wait_for(comparison: int) -> None:
    """Until whoever holds this row is done. Nothing else is locked meanwhile, so there is no deadlock."""
    with transaction.atomic():
        Comparison.objects.select_for_update(no_key=True).filter(pk=comparison).order_by("pk").first()


def lease_of(*, lease_id: uuid.UUID, annotator: User) -> Lease:
    """A lease in this person's own hands or past; anybody else's does not exist for them."""
    return find(Lease.objects.to_present(), annotator, Action.JUDGE, pk=lease_id, annotator=annotator)
