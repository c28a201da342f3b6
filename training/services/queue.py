"""The queue of runs in Postgres: claiming, requeueing, and waking those who work it."""

from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, QuerySet
from django.db.models.functions import Coalesce, Now

from annotation.postgres.base import limit_silence
from annotation.services import emit
from training.models import Run
from training.services.version import code_version

PREPARE_AGAIN_AFTER = timedelta(seconds=15)
MAX_PREPARATIONS = 3


def database_now() -> datetime:
    """The database's clock, the only one that all machines share."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement_timestamp()")
        now: datetime = cursor.fetchone()[0]
    return now


@transaction.atomic
def claim_next(*, device_kind: str, worker: str) -> Run | None:
    """Take the oldest queued run for this kind of device and begin an attempt, or None."""
    hold_no_longer_than_a_lease()
    queued = Run.objects.queued(device_kind=device_kind).order_by("queued_at", "pk")
    run = queued.select_for_update(skip_locked=True, no_key=True).only("pk").first()
    if run is None:
        return None
    Run.objects.filter(pk=run.pk).update(
        status=Run.Status.RUNNING,
        attempt=F("attempt") + 1,
        worker=worker[:100],
        code_version=code_version(),
        not_before=None,
        started_at=Coalesce("started_at", Now()),
        heartbeat_at=Now(),
        progress_at=Now(),
    )
    return Run.objects.select_related("project", "snapshot", "base", "base_checkpoint__run").get(pk=run.pk)


def hold_no_longer_than_a_lease() -> None:
    """Call it in a transaction before it locks a run. A worker that stands still within one keeps the run's
    row locked, and nobody could take over what others pass as taken (SKIP LOCKED).
    """
    limit_silence(settings.RUN_STALE_AFTER / 2)


def enqueue(runs: QuerySet[Run]) -> int:
    """Queue these runs and wake the workers of their devices after the commit. Call within a transaction."""
    kinds = sorted(set(runs.values_list("device_kind", flat=True)))
    changed = runs.update(status=Run.Status.QUEUED, queued_at=Coalesce("queued_at", Now()))
    for kind in kinds:
        transaction.on_commit(partial(wake_workers, kind), robust=True)  # a lost one is made good
    return changed


def wake_workers(device_kind: str) -> None:
    """Send a wake-up. It says nothing that Postgres does not know, and has no date by which a worker whose
    clock is ahead would take it for void."""
    from training import tasks

    tasks.work_runs.apply_async(kwargs={"device_kind": device_kind}, queue=f"runs-{device_kind}")


def wake_waiting() -> None:
    """Wake the workers of every device for which runs wait, so that a lost message costs seconds."""
    queued = Run.objects.filter(status=Run.Status.QUEUED)
    for kind in sorted(set(queued.values_list("device_kind", flat=True))):
        wake_workers(kind)


def requeue_lost_runs(*, now: datetime) -> int:
    """Give runs whose worker fell silent, or whose trainer stands still, to another. Returns how many.

    `now` is the database's clock. Right after its start nobody is late: workers were cut off too.
    """
    silent = Run.objects.lost(
        now=now, stale_after=settings.RUN_STALE_AFTER, stall_after=settings.RUN_STALL_AFTER
    )
    if now - _database_start() < settings.RUN_STALE_AFTER:
        return 0
    # Signs of life from the future: the clock was set back. Else a dead worker would seem alive until then.
    running = Run.objects.filter(status=Run.Status.RUNNING)
    running.filter(heartbeat_at__gt=now + settings.RUN_STALE_AFTER).update(heartbeat_at=now, progress_at=now)
    count = 0
    for pk in silent.order_by("pk").values_list("pk", flat=True):
        with transaction.atomic():
            hold_no_longer_than_a_lease()
            run = silent.select_for_update(skip_locked=True, no_key=True).filter(pk=pk).first()
            if run is not None:
                give_back(run, reason=_why_lost(run, now=now), counts=True)
                count += 1
    return count


@transaction.atomic
def end(run: Run, status: Run.Status, *, among: QuerySet[Run] | None = None, **changes: Any) -> bool:
    """End a run for good, if it is (still) `among` these, and tell the project's webhooks."""
    rows = Run.objects.filter(pk=run.pk) if among is None else among
    if not rows.update(status=status, finished_at=Now(), **changes):
        return False
    data = {"run": run.pk, "method": run.method, "status": status.value, "error": changes.get("error", "")}
    emit(project=run.project_id, event="run.finished", data=data)
    return True


def give_back(run: Run, *, reason: str, counts: bool, pause: timedelta = timedelta(0)) -> None:
    """End an attempt that came to nothing: the run is queued again, or has failed.

    It has failed when too many attempts that count were lost. Who asked to cancel meanwhile gets that. The
    next attempt begins after the `pause`, by every lost one longer: a full disk or memory may have room then.
    The caller holds the row's lock.
    """
    this = Run.objects.filter(pk=run.pk)
    lost = run.lost_attempts + counts
    pause *= lost
    if run.cancel_requested_at:
        end(run, Run.Status.CANCELLED, lost_attempts=lost)
    elif lost >= settings.RUN_MAX_ATTEMPTS:
        error = (
            f"{reason} That was attempt {lost} of {settings.RUN_MAX_ATTEMPTS}; look at the log, then retry."
        )
        end(run, Run.Status.FAILED, lost_attempts=lost, error=error)
    else:
        if pause:
            reason = f"{reason} It is tried again after {pause.total_seconds():.0f} seconds."
        this.update(lost_attempts=lost, error=reason, not_before=Now() + pause)
        enqueue(this)


def prepare_waiting(*, now: datetime) -> None:
    """Ask again for the preparation of runs that nobody seems to prepare; a running one is left alone."""
    from training import tasks

    waiting = Run.objects.filter(status=Run.Status.PREPARING, created_at__lt=now - PREPARE_AGAIN_AFTER)
    for pk in waiting.order_by("pk").values_list("pk", flat=True):
        tasks.prepare_run.apply_async(kwargs={"run_id": pk})


def _database_start() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_postmaster_start_time()")
        start: datetime = cursor.fetchone()[0]
    return start


def _why_lost(run: Run, *, now: datetime) -> str:
    assert run.heartbeat_at is not None
    if run.heartbeat_at < now - settings.RUN_STALE_AFTER:
        seconds = settings.RUN_STALE_AFTER.total_seconds()
        return f"The worker {run.worker} was not heard of for {seconds:.0f} seconds."
    minutes = settings.RUN_STALL_AFTER.total_seconds() / 60
    return f"The trainer made no progress for {minutes:.0f} minutes."
