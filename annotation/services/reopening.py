"""How slots come back: skipped, given back, run out, set aside.

Each is a transaction of its own that locks comparisons, then members, each by id, and lowers the frontiers:
see `annotation.services.queue`. Leases of other kinds than regular hold no slot and are only closed.
"""

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from django.db import connection, transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from annotation.errors import Conflict, Invalid
from annotation.models import Comparison, Lease, QueueStrategy, User
from annotation.services import queue
from annotation.services.strategies import STEP, lock_members

BATCH: Final = 500

# What the named leases held goes back; `reserved` slots to their group. Returns the new keys.
REOPEN = f"""
WITH freed AS (
    SELECT comparison_id, count(*) AS slots, count(reserved_for_id) AS reserved FROM annotation_lease
    WHERE id = ANY(%(leases)s) AND slot IS NOT NULL GROUP BY comparison_id
)
UPDATE annotation_comparison c SET open_slots = c.open_slots + freed.slots,
    reserved_open = c.reserved_open + freed.reserved,
    queue_key = c.queue_key
        - CASE WHEN p.queue_strategy = '{QueueStrategy.FEWEST}' THEN freed.slots * {STEP} ELSE 0 END
FROM freed, annotation_project p WHERE c.id = freed.comparison_id AND p.id = c.project_id
RETURNING c.project_id, c.id, c.queue_key
"""  # noqa: S608  constants of ours
REOPEN_RESERVED = f"""
WITH freed AS (
    SELECT comparison_id, reserved_for_id, count(*) AS slots FROM annotation_lease
    WHERE id = ANY(%(leases)s) AND reserved_for_id IS NOT NULL GROUP BY comparison_id, reserved_for_id
)
UPDATE annotation_reservation r SET open_slots = r.open_slots + freed.slots,
    queue_key = r.queue_key
        - CASE WHEN p.queue_strategy = '{QueueStrategy.FEWEST}' THEN freed.slots * {STEP} ELSE 0 END
FROM freed, annotation_comparison c, annotation_project p
WHERE r.comparison_id = freed.comparison_id AND r.group_id = freed.reserved_for_id
AND c.id = r.comparison_id AND p.id = c.project_id
RETURNING c.project_id, c.id, r.queue_key
"""  # noqa: S608
# Only for those who may still get it: who has had it goes on where they were, past all they have judged.
LOWER_FRONTIERS: Final = """
UPDATE annotation_member m SET frontier = lower.key FROM (
    SELECT o.id, min(f.key) AS key FROM annotation_member o
    JOIN unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS f (project, comparison, key)
        ON o.project_id = f.project AND o.frontier > f.key
    WHERE NOT EXISTS (SELECT 1 FROM annotation_lease l WHERE l.comparison_id = f.comparison
        AND l.annotator_id = o.user_id AND l.state IN ('open', 'judged', 'skipped', 'aside') OFFSET 0)
    GROUP BY o.id
) AS lower WHERE m.id = lower.id
"""


def renew_lease(*, lease_id: uuid.UUID, annotator: User, now: datetime) -> Lease:
    """Keep an open comparison for another full term."""
    lease = queue.lease_of(lease_id=lease_id, annotator=annotator)

    def work() -> None:
        queue.lock_member(project=lease.comparison.project_id, user=annotator)
        lease.refresh_from_db(fields=["state"])
        if lease.state != Lease.State.OPEN:
            raise Conflict(
                _("This comparison is no longer in your hands: its lease is %(state)s.")
                % {"state": lease.get_state_display()}
            )
        lease.expires_at = queue.expiry(lease.comparison.project, now)
        lease.save(update_fields=["expires_at"])

    queue.run(work, now=now)
    return lease


def skip_lease(*, lease_id: uuid.UUID, annotator: User, reason: str = "", now: datetime) -> Lease:
    """Put a comparison back for others; it does not come to this person again. A repeat changes nothing."""
    if len(reason) > 500:
        raise Invalid({"reason": _("has %(n)s characters; 500 at most.") % {"n": len(reason)}})
    lease = queue.lease_of(lease_id=lease_id, annotator=annotator)
    if lease.kind == Lease.Kind.QUALIFICATION:
        raise Conflict(_("The questions of the test cannot be skipped; answer as well as you can."))
    with transaction.atomic():
        lock([lease.comparison_id])
        lease.refresh_from_db(fields=["state"])
        if lease.state == Lease.State.SKIPPED:
            return lease
        if lease.state != Lease.State.OPEN:
            raise Conflict(
                _("This comparison can no longer be skipped: its lease is %(state)s.")
                % {"state": lease.get_state_display()}
            )
        lease.state, lease.skip_reason, lease.closed_at = Lease.State.SKIPPED, reason, now
        lease.save(update_fields=["state", "skip_reason", "closed_at"])
        reopen([lease.pk])
    return lease


def give_back(*, project: int, annotator: User, now: datetime) -> None:
    """Take everything that a person holds in a project out of their hands, as if their time had run out."""
    held = Lease.objects.filter(
        comparison__project=project, annotator=annotator, state=Lease.State.OPEN
    ).values_list("comparison_id", flat=True)
    with transaction.atomic():
        ids = sorted(set(held))
        lock(ids)
        leases = Lease.objects.filter(comparison__in=ids, annotator=annotator, state=Lease.State.OPEN)
        _expire(leases, now=now)


def reopen_expired_leases(*, now: datetime, project: int | None = None) -> int:
    """Take back what people left lying; how many leases."""
    lapsed = Lease.objects.lapsed(now=now)
    if project is not None:
        lapsed = lapsed.filter(comparison__project=project)
    total = 0
    while ids := sorted(set(lapsed.values_list("comparison_id", flat=True)[:BATCH])):
        with transaction.atomic():
            lock(ids)
            # again: some were answered since
            total += _expire(Lease.objects.lapsed(now=now).filter(comparison__in=ids), now=now)
    return total


def _expire(leases: QuerySet[Lease], *, now: datetime) -> int:
    """Close open leases of locked comparisons. Their members are locked too, so none is being answered."""
    found = list(leases.order_by("pk").values_list("pk", flat=True))
    Lease.objects.filter(pk__in=found).update(state=Lease.State.EXPIRED, closed_at=now)
    reopen(found)
    return len(found)


def lock(comparisons: Iterable[int]) -> None:
    """Lock comparisons and then everybody's place in their queues: the frontiers must not move meanwhile."""
    rows = Comparison.objects.select_for_update(no_key=True).filter(pk__in=list(comparisons)).order_by("pk")
    lock_members(sorted({project for _pk, project in rows.values_list("pk", "project_id")}))


def reopen(leases: Sequence[uuid.UUID]) -> None:
    """Open the slots again that these leases held, whose comparisons are locked; no frontier stays beyond.

    The leases are closed already: who may get a comparison again is read from them.
    """
    with connection.cursor() as cursor:
        for statement in (REOPEN, REOPEN_RESERVED):
            cursor.execute(statement, {"leases": list(leases)})
            if opened := cursor.fetchall():
                cursor.execute(LOWER_FRONTIERS, [list(column) for column in zip(*opened, strict=True)])
