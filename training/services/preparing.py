"""Before a run is queued: its data is frozen once, and looked at as the trainer will see it."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connections, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.db.utils import DEFAULT_DB_ALIAS

from training import datasets
from training.models import Run, Snapshot
from training.services import executing, queue
from training.services.errors import RunFailed
from training.services.recording import clean

logger = logging.getLogger(__name__)
SILENT_FOR = 60  # seconds until the lock of a process that stands still is free
TALK_EVERY = 10.0  # seconds
LOCK_SPACE = 0x7472  # "tr": advisory locks of run preparation


def prepare_run(*, run_id: int) -> None:
    """Freeze and inspect a run's data; then it is queued, or waits as a draft. Harmless when repeated."""
    with _alone(run_id) as is_alone:
        waiting = Run.objects.filter(pk=run_id, status=Run.Status.PREPARING)
        if not is_alone or not waiting.update(preparations=F("preparations") + 1):
            return
        run = waiting.select_related("project", "snapshot__project", "base", "base_checkpoint__run").get()
        try:
            if run.preparations > queue.MAX_PREPARATIONS:
                raise RunFailed(
                    f"Preparing the data was tried {queue.MAX_PREPARATIONS} times and did not succeed; "
                    "the log of the light worker says why."
                )
            freeze_snapshot(snapshot_id=run.snapshot_id)
            run.snapshot.refresh_from_db()
            inspect_run(run=run)
        except (RunFailed, datasets.EmptySnapshot) as error:
            queue.end(run, Run.Status.FAILED, among=waiting, error=clean(str(error)))


def freeze_snapshot(*, snapshot_id: int) -> None:
    """Write the snapshot's files unless that was done before. Raises EmptySnapshot with a sentence."""
    snapshot = Snapshot.objects.select_related("project").get(pk=snapshot_id)
    if snapshot.frozen_at:
        return
    frozen = datasets.store_snapshot(snapshot)
    Snapshot.objects.filter(pk=snapshot_id, frozen_at=None).update(
        sha256=frozen.sha256,
        storage_key=frozen.storage_key,
        counts=frozen.counts,
        people=frozen.people,
        frozen_at=Now(),
    )


def inspect_run(*, run: Run) -> None:
    """Store the preview of the run's data, and queue the run or leave it as a draft."""
    preview = clean(executing.inspect(run))
    waiting = Run.objects.filter(pk=run.pk, status=Run.Status.PREPARING)
    with transaction.atomic():
        waiting.update(preview=preview)
        if run.start_when_ready:
            queue.enqueue(waiting)
        else:
            waiting.update(status=Run.Status.DRAFT)


@contextmanager
def _alone(run_id: int) -> Iterator[bool]:
    """Whether no other process prepares this run.

    The lock is that of a transaction on a connection of its own, which does nothing else: it goes when this
    process dies or stands still, and a pooler in transaction mode leaves both together.
    """
    own = connections.create_connection(DEFAULT_DB_ALIAS)
    over = threading.Event()
    try:
        own.set_autocommit(False)
        with own.cursor() as cursor:
            cursor.execute(
                "SELECT pg_try_advisory_xact_lock(%s, %s),"
                " set_config('idle_in_transaction_session_timeout', %s, true)",
                [LOCK_SPACE, run_id, f"{SILENT_FOR}s"],
            )
            is_alone, _limit = cursor.fetchone()
        voice = threading.Thread(target=_keep_talking, args=[own.connection, over], daemon=True)
        voice.start()
        yield is_alone
        over.set()
        voice.join()
    finally:
        over.set()
        own.close()


def _keep_talking(connection: Any, over: threading.Event) -> None:
    while not over.wait(TALK_EVERY):
        try:
            connection.execute("SELECT 1")
        except psycopg.Error as error:  # another may prepare it now, too, which does no harm
            logger.warning("the lock of a preparation was lost: %s", error)
            return
