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
from collections.abc import Callable, Sequence
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
from annotation.services.statements import columns, fetch, instance_of
from annotation.services.strategies import step_of
from annotation.services.writing import Locked, Writing

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
# The hot path is written in SQL: building these queries took longer than running them. Its plans are kept,
# those too that were made when the tables were all but empty: none may read a table whole (docs/adr/0013).
LOCK_MEMBER = f"""
SELECT {", ".join(f"m.{name}" for name in MEMBER)}, {", ".join(f"p.{name}" for name in PROJECT)},
    set_config('lock_timeout', '{PATIENCE}', true), set_config('enable_seqscan', 'off', true),
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
(SELECT r.comparison_id AS id, r.queue_key, r.group_id FROM annotation_reservation r
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
READ_OF = f"""
SELECT {columns(Comparison, "c")}, (
    SELECT jsonb_agg(jsonb_build_array(to_jsonb(a), to_jsonb(m) - 'created_at') ORDER BY a.index)
    FROM annotation_candidate a LEFT JOIN annotation_media m ON m.id = a.image_id
    WHERE a.comparison_id = c.id)
FROM annotation_comparison c WHERE c.id
"""  # noqa: S608
READ: Final = f"{READ_OF} = %(id)s"
# Both kinds of checks are picked, whichever is due, and that one is read.
READ_CHECK = f"""
WITH picked AS MATERIALIZED ({checks.PICK}), due AS MATERIALIZED (
    {READ_OF} = (SELECT CASE %(due)s WHEN 'gold' THEN gold WHEN 'repeat' THEN repeat END FROM picked)
)
SELECT picked.gold, picked.repeat, due.* FROM picked LEFT JOIN due ON true
"""  # noqa: S608
# What lies ahead, and the first of it that is free, locked: one statement, because a second one costs as much
# again. A slot reserved for the member's group comes before a shared one of the same comparison.
LOOK_AND_LOCK = f"""
WITH ahead AS MATERIALIZED ({{ahead}}), each AS MATERIALIZED (
    SELECT DISTINCT ON (id) id, queue_key, group_id FROM ahead ORDER BY id, queue_key, group_id
), found AS MATERIALIZED (
    SELECT array_agg(id ORDER BY queue_key, id) AS ids, array_agg(queue_key ORDER BY queue_key, id) AS keys,
        array_agg(group_id ORDER BY queue_key, id) AS groups,
        array_agg(id) FILTER (WHERE group_id IS NOT NULL) AS reserved
    FROM each
), locked AS MATERIALIZED (
    {READ_OF} = ANY((SELECT ids FROM found)::bigint[])
    AND (c.open_slots > c.reserved_open
         OR (c.open_slots > 0 AND c.id = ANY((SELECT reserved FROM found)::bigint[])))
    ORDER BY array_position((SELECT ids FROM found), c.id) LIMIT 1 FOR NO KEY UPDATE OF c SKIP LOCKED
)
SELECT found.ids, found.keys, found.groups, locked.* FROM found LEFT JOIN locked ON true
"""  # noqa: S608
LOOK: Final = {False: AHEAD, True: AHEAD_OF_GROUP}  # by whether the member is in a group
LOCK: Final = {in_group: LOOK_AND_LOCK.format(ahead=ahead) for in_group, ahead in LOOK.items()}


class _Ahead(NamedTuple):
    comparison: int
    key: int
    group: int | None  # whose reserved slot it is


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
        writing = Writing(member, now=now)
        lease = take_next(held=held, after=after, writing=writing)
        writing.write()
        return lease

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
        except Locked as busy:
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


def take_next(*, held: list[Lease], after: Lease | None, writing: Writing) -> Lease | None:
    """One of the open leases that the locked member holds (oldest first), or a new one if there is no other.

    So nobody takes a third while they hold two. Raises `Locked` or `_Lapsed`; see `run`.
    """
    member, now = writing.member, writing.now
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
    return _take_new(writing)


def _take_new(writing: Writing) -> Lease | None:
    member, now = writing.member, writing.now
    if qualification.is_due(member):
        question = qualification.next_question(member, now=now)
        if question is None:
            return None
        return hand_out(read(question), Kind.QUALIFICATION, frontier=member.frontier, writing=writing)
    check = _check_due(member) if member.project.has_checks else None
    if check is not None and (ahead := _look_ahead(member)):
        return hand_out(*check, frontier=ahead[0].key, writing=writing)
    ahead, comparison = _look_and_lock(member)
    if not ahead:
        _move_past_the_last(member, now=now)
        return None
    if comparison is None:
        raise Locked(ahead[0].comparison)
    taken = next(item for item in ahead if item.comparison == comparison.pk)
    others = [item.key for item in ahead if item is not taken]
    lease = _new_lease(comparison, Kind.REGULAR, writing)
    lease.reserved_for_id = taken.group
    frontier = others[0] if others else taken.key + 1
    writing.take(lease, frontier=frontier, step=step_of(member.project))
    return lease


def _check_due(member: Member) -> tuple[Comparison, Kind] | None:
    """What this member is given instead of a regular comparison. Asked in the same way if nothing is due."""
    kind = checks.kind_due(member)
    ((_gold, _repeat, *row),) = fetch(READ_CHECK, {**checks.values_of(member), "due": kind})
    return None if kind is None or row[0] is None else (_comparison_of(row), kind)


def _look_ahead(member: Member) -> list[_Ahead]:
    return [_Ahead(*row) for row in fetch(LOOK[member.group_id is not None], _place_of(member))]


def _look_and_lock(member: Member) -> tuple[list[_Ahead], Comparison | None]:
    """The comparisons ahead, each once, and the first of them that is free, locked."""
    ((ids, keys, groups, *row),) = fetch(LOCK[member.group_id is not None], _place_of(member))
    ahead = [_Ahead(*item) for item in zip(ids or (), keys or (), groups or (), strict=True)]
    return ahead, _comparison_of(row) if row[0] is not None else None


def _place_of(member: Member) -> dict[str, Any]:
    return {
        "project": member.project_id,
        "frontier": member.frontier,
        "annotator": member.user_id,
        "group": member.group_id,
    }


def _comparison_of(row: Sequence[Any]) -> Comparison:
    """From the values of `READ_OF`, with its candidates and their pictures."""
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
        member.frontier = last + 1
        member.save(update_fields=["frontier"])


def read(comparison: int) -> Comparison:
    """One that exists, with its candidates and their pictures."""
    (row,) = fetch(READ, {"id": comparison})
    return _comparison_of(row)


def hand_out(comparison: Comparison, kind: Kind, *, frontier: int, writing: Writing) -> Lease:
    """A comparison, as `read`, that fills no slot."""
    lease = _new_lease(comparison, kind, writing)
    writing.hand_out(lease, frontier=frontier)
    return lease


def random_order(size: int) -> list[int]:
    """In which the candidates of a comparison are shown to one person."""
    order = list(range(size))
    _shuffle(order)
    return order


def _new_lease(comparison: Comparison, kind: Kind, writing: Writing) -> Lease:
    """For the member, in a new random order."""
    project = comparison.project = writing.member.project
    lease = Lease(
        id=uuid.uuid4(),
        comparison=comparison,
        annotator_id=writing.member.user_id,
        kind=kind,
        order=random_order(len(comparison.candidates.all())),
        template_version=project.template_version,
        created_at=writing.now,
        expires_at=expiry(project, writing.now),
    )
    lease._state.adding = False
    return lease


def expiry(project: Project, now: datetime) -> datetime:
    return now + timedelta(minutes=project.lease_minutes)


def _wait_for(comparison: int) -> None:
    """Until whoever holds this row is done. Nothing else is locked meanwhile, so there is no deadlock."""
    with transaction.atomic():
        Comparison.objects.select_for_update(no_key=True).filter(pk=comparison).order_by("pk").first()


def lease_of(*, lease_id: uuid.UUID, annotator: User) -> Lease:
    """A lease in this person's own hands or past; anybody else's does not exist for them."""
    return find(Lease.objects.to_present(), annotator, Action.JUDGE, pk=lease_id, annotator=annotator)
