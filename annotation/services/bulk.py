"""Changes to many rows of a project: in batches, each a transaction of its own, beside those who work there.

The first batch is done by whoever asks, so that nobody waits for a worker in a small project; a light task
does the others. Each batch commits its rows together with how far it is: a second attempt goes on exactly
there, and two workers never do the same batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from django.db import transaction
from django.utils import timezone

from annotation.models import BulkChange, Project
from annotation.services.jobs import enqueue

MAX_ATTEMPTS: Final = 5  # starts without getting any further
USED_UP: Final = "The change was started {} times and stopped at the same place; the worker's log says why."


class Batch(NamedTuple):
    """What one batch did: how many rows, the last id, and whether nothing is left."""

    rows: int
    last: int
    finished: bool


Step = Callable[[BulkChange], Batch]


def start(
    project: Project, kind: BulkChange.Kind, *, total: int, subject: dict[str, Any] | None = None
) -> BulkChange:
    """Begin a change: its first batch is done when this returns."""
    with transaction.atomic():
        change = BulkChange.objects.create(project=project, kind=kind, subject=subject or {}, total=total)
        _do_batch(change)
        if change.status in BulkChange.UNFINISHED:
            transaction.on_commit(partial(enqueue, "run_bulk_change", change.pk))
    return change


def run_bulk_change(change_id: int) -> None:
    """Work on a change until it is done. Safe to call twice, at the same time or after a kill."""
    if not _start_attempt(change_id):
        return
    while True:
        with transaction.atomic():
            change = _unfinished(change_id)
            if change is None:  # done, or another worker is at it
                return
            _do_batch(change)


def _unfinished(change_id: int) -> BulkChange | None:
    rows = BulkChange.objects.select_for_update(skip_locked=True, no_key=True, of=("self",))
    return rows.select_related("project").filter(pk=change_id, status__in=BulkChange.UNFINISHED).first()


@transaction.atomic
def _start_attempt(change_id: int) -> bool:
    change = _unfinished(change_id)
    if change is None:
        return False
    change.attempts, change.touched_at = change.attempts + 1, timezone.now()
    if change.attempts > MAX_ATTEMPTS:
        change.status, change.error = BulkChange.Status.FAILED, USED_UP.format(MAX_ATTEMPTS)
        change.finished_at = change.touched_at
    change.save(update_fields=["attempts", "touched_at", "status", "error", "finished_at"])
    return change.status in BulkChange.UNFINISHED


def _do_batch(change: BulkChange) -> None:
    """One batch of a change that nobody else is at, in the transaction that is going on."""
    batch = _steps()[BulkChange.Kind(change.kind)](change)
    change.done, change.position, change.attempts = change.done + batch.rows, batch.last, 0
    change.touched_at, change.status = timezone.now(), BulkChange.Status.RUNNING
    if batch.finished:
        change.status, change.finished_at = BulkChange.Status.DONE, change.touched_at
    change.save(update_fields=["done", "position", "attempts", "touched_at", "status", "finished_at"])


def _steps() -> dict[BulkChange.Kind, Step]:
    from annotation.services import assignment, people, strategies, withdrawing

    return {
        BulkChange.Kind.STRATEGY: strategies.rekey_batch,
        BulkChange.Kind.SET_ASIDE: people.set_aside_batch,
        BulkChange.Kind.RESTORE: people.restore_batch,
        BulkChange.Kind.GROUP: assignment.dissolve_batch,
        BulkChange.Kind.DELETE: withdrawing.delete_batch,
    }
