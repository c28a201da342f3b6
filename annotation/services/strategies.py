"""Queue strategies: each is a way to compute `Comparison.queue_key`, by which the queue is read.

Taking and reopening work on the key alone, so that every strategy has the same two-step query and the same
index. A key only grows while slots are taken, and falls when they are reopened or a priority changes; what
lowers a key lowers the members' frontiers in the same transaction (see `annotation.services.queue`).

    order     rank
    fewest    judgements so far · STEP + rank
    random    a random number below STEP
    priority  (HIGHEST - priority) · STEP + rank
"""

import random
from collections.abc import Sequence
from typing import Any, Final

from django.db import connection, transaction
from django.db.models import OuterRef, Subquery
from django.utils.translation import gettext as _

from annotation.errors import Invalid
from annotation.models import BulkChange, Comparison, Member, Project, QueueStrategy, Reservation
from annotation.services import bulk

STEP: Final = 2**44  # ranks stay below it
HIGHEST: Final = 2**15 - 1
LOWEST: Final = -(2**15)
_random = random.SystemRandom()

KEYS: Final = {
    QueueStrategy.ORDER: "rank",
    QueueStrategy.FEWEST: f"""(needed - open_slots + (
        SELECT count(*) FROM annotation_judgement j WHERE j.comparison_id = c.id AND j.lease_id IS NULL
        AND j.kind = 'regular' AND j.undone_at IS NULL)) * {STEP} + rank""",  # noqa: S608  a constant of ours
    QueueStrategy.RANDOM: f"floor(random() * {STEP})::bigint",
    QueueStrategy.PRIORITY: f"({HIGHEST} - priority)::bigint * {STEP} + rank",
}
# Comparisons are locked in the order of their ids, as everywhere. Returns the ids and keys.
LOCK_BATCH = """
SELECT id FROM annotation_comparison WHERE project_id = %(project)s AND id > %(after)s
ORDER BY id LIMIT %(batch)s FOR NO KEY UPDATE
"""
REKEY = """
UPDATE annotation_comparison c SET queue_key = {key} WHERE c.id = ANY(%(ids)s)
RETURNING CASE WHEN open_slots > 0 THEN queue_key END
"""
REKEY_RESERVATIONS = """
UPDATE annotation_reservation r
SET queue_key = CASE WHEN %(fewest)s THEN (r.needed - r.open_slots) * %(step)s + c.rank ELSE c.queue_key END
FROM annotation_comparison c WHERE c.id = r.comparison_id AND c.id = ANY(%(ids)s)
RETURNING CASE WHEN r.open_slots > 0 THEN r.queue_key END
"""
BATCH: Final = 1000  # comparisons in one transaction of a change of strategy


def step_of(project: Project) -> int:
    """What taking a slot adds to a key, and reopening one takes off."""
    return STEP if project.queue_strategy == QueueStrategy.FEWEST else 0


def new_key(project: Project, *, rank: int, labels: int) -> int:
    """The key of a comparison that is being added with `labels` judgements; its priority is 0."""
    match project.queue_strategy:
        case QueueStrategy.FEWEST:
            return labels * STEP + rank
        case QueueStrategy.RANDOM:
            return _random.randrange(STEP)
        case QueueStrategy.PRIORITY:
            return HIGHEST * STEP + rank
    return rank


def lower_frontiers(project: int, *, key: int) -> None:
    """Bring every member of the project back to this key. The members are locked, by id."""
    Member.objects.filter(project=project, frontier__gt=key).update(frontier=key)


def lock_members(projects: Sequence[int]) -> None:
    """Nobody's place in these queues moves until the transaction ends."""
    members = Member.objects.select_for_update(no_key=True).filter(project__in=projects).order_by("pk")
    list(members.values_list("pk"))


@transaction.atomic
def use_strategy(*, project: Project, strategy: str) -> BulkChange:
    """Put the whole queue into another order. What is taken or added from now on has a key of the new one;
    the other keys follow in batches. Each depends only on its comparison, and everybody's frontier is lowered
    to the keys that changed, so that nothing is lost from sight meanwhile.
    """
    project.queue_strategy = QueueStrategy(strategy)
    project.save(update_fields=["queue_strategy"])
    total = Comparison.objects.filter(project=project).count()
    subject = {"strategy": project.queue_strategy}
    return bulk.start(project, BulkChange.Kind.STRATEGY, total=total, subject=subject)


def rekey_batch(change: BulkChange) -> bulk.Batch:
    """The keys of the next comparisons, unless yet another strategy was chosen since."""
    later = BulkChange.objects.filter(project=change.project_id, kind=change.kind, pk__gt=change.pk)
    if later.exists():
        return bulk.Batch(0, change.position, finished=True)
    strategy = QueueStrategy(change.subject["strategy"])
    values: dict[str, Any] = {"project": change.project_id, "after": change.position, "batch": BATCH}
    values |= {"step": STEP, "fewest": strategy == QueueStrategy.FEWEST}
    with connection.cursor() as cursor:
        cursor.execute(LOCK_BATCH, values)
        ids = [pk for (pk,) in cursor.fetchall()]
        values["ids"] = ids
        cursor.execute(REKEY.format(key=KEYS[strategy]), values)
        keys = [key for (key,) in cursor.fetchall() if key is not None]
        cursor.execute(REKEY_RESERVATIONS, values)
        keys += [key for (key,) in cursor.fetchall() if key is not None]
    if keys:
        lock_members([change.project_id])
        lower_frontiers(change.project_id, key=min(keys))
    return bulk.Batch(len(ids), ids[-1] if ids else change.position, finished=len(ids) < BATCH)


@transaction.atomic
def set_priorities(*, project: Project, priorities: dict[int, int]) -> int:
    """Set the priority of comparisons of a project, by their ids; how many there are.

    Higher comes first where the project's strategy is `priority`; under another one it is only kept.
    """
    wrong = {pk: value for pk, value in priorities.items() if not LOWEST <= value <= HIGHEST}
    if wrong:
        raise Invalid(
            {
                "priority": _("%(priority)s is not within %(lowest)s and %(highest)s.")
                % {"priority": next(iter(wrong.values())), "lowest": LOWEST, "highest": HIGHEST}
            }
        )
    rows = Comparison.objects.select_for_update(no_key=True).filter(project=project, pk__in=priorities)
    found = list(rows.order_by("pk"))
    if missing := sorted(set(priorities) - {comparison.pk for comparison in found}):
        raise Invalid(
            {"comparisons": _("There is no comparison %(id)s in this project.") % {"id": missing[0]}}
        )
    lock_members([project.pk])
    ordered = Project.objects.filter(pk=project.pk, queue_strategy=QueueStrategy.PRIORITY).exists()
    for comparison in found:
        comparison.priority = priorities[comparison.pk]
        if ordered:
            comparison.queue_key = (HIGHEST - comparison.priority) * STEP + comparison.rank
    Comparison.objects.bulk_update(found, ["priority", "queue_key"], batch_size=1000)
    if ordered and found:
        own_key = Comparison.objects.filter(pk=OuterRef("comparison")).values("queue_key")
        Reservation.objects.filter(comparison__in=found).update(queue_key=Subquery(own_key))
        lower_frontiers(project.pk, key=min(comparison.queue_key for comparison in found))
    return len(found)
