"""Background work. A message carries ids at most: every task looks at Postgres first and may arrive twice."""

import logging
import os
import socket
from typing import Any

from celery import shared_task
from celery.signals import worker_ready, worker_shutting_down

from training import services

logger = logging.getLogger(__name__)


@shared_task
def prepare_run(*, run_id: int) -> None:
    """Freeze a run's data, look at it as the trainer will, and queue the run (light worker)."""
    services.prepare_run(run_id=run_id)


@shared_task
def work_runs(*, device_kind: str) -> None:
    """A wake-up without content: losing or doubling it is harmless."""
    worker = f"{socket.gethostname()}:{os.getpid()}"
    services.tidy_work_dir()
    while not services.stop_was_asked() and (
        run := services.claim_next(device_kind=device_kind, worker=worker)
    ):
        services.execute(run)
        if services.belongs_to_duel(run):
            advance_duels.apply_async()


@shared_task
def requeue_lost_runs() -> None:
    """Periodic: nothing that was queued or is being prepared waits for a message that was lost."""
    now = services.database_now()
    if count := services.requeue_lost_runs(now=now):
        logger.warning("%s lost runs were queued again or ended", count)
    services.prepare_waiting(now=now)
    services.wake_waiting()
    services.wake_uploads(now=now)


@shared_task
def upload_result(*, upload_id: int) -> None:
    """Copy a result to a model hub (light worker)."""
    services.upload_result(upload_id=upload_id)


@shared_task
def run_schedules() -> None:
    """Periodic: start what is due."""
    services.run_schedules(now=services.database_now())


@shared_task
def advance_matches() -> None:
    """Periodic: turn finished generations into comparisons."""
    services.advance_matches()


@shared_task
def advance_duels() -> None:
    """Turn answers of the arena into comparisons; periodic, and when one is there."""
    now = services.database_now()
    services.advance_duels(now=now)
    services.forget_duels(now=now)
    services.delete_withdrawn()


@worker_ready.connect
def _warm_up(sender: Any, **_: object) -> None:
    """Of a worker for runs that does them itself: with a pool, its children do."""
    queues = [name for name in sender.app.amqp.queues.consume_from if name.startswith("runs-")]
    if queues and sender.pool.__module__ == "celery.concurrency.solo":
        services.warm_up(device_kind=queues[0].removeprefix("runs-"))


@worker_shutting_down.connect
def _stop_running(**_: object) -> None:
    services.ask_to_stop()
