"""The Celery application, its queues and what runs periodically.

Queues: `light` for short tasks (imports, exports, snapshots), `runs-<device kind>` for wake-ups of run
workers. A message carries nothing that Postgres does not know; losing or doubling one is harmless.
"""

import gc
import os
import time
from datetime import UTC, datetime, timedelta

from celery import Celery
from celery.schedules import schedule
from celery.signals import worker_process_init

import webapp.embedded.broker  # noqa: F401  registers the transport of the embedded default
from webapp.tracing import start_tracing

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
app = Celery("tiebreak")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["annotation", "training"])

_BEGAN, _BEGAN_AT = time.monotonic(), datetime.now(UTC)


def steady_now() -> datetime:
    """The time as it was at the start and what has gone by since, whatever is done to the clock meanwhile."""
    return _BEGAN_AT + timedelta(seconds=time.monotonic() - _BEGAN)


def every(seconds: float) -> schedule:
    """By the wall's clock, Celery would do nothing for as long as that clock was set back."""
    return schedule(seconds, nowfun=steady_now)


app.conf.beat_schedule = {
    "reopen-expired-leases": {"task": "annotation.tasks.reopen_expired_leases", "schedule": every(30.0)},
    "fold-slots": {"task": "annotation.tasks.fold_slots", "schedule": every(30.0)},
    "deliver-webhooks": {"task": "annotation.tasks.deliver_webhooks", "schedule": every(10.0)},
    "forget-old-deliveries": {"task": "annotation.tasks.forget_old_deliveries", "schedule": every(600.0)},
    "read-prompts": {"task": "annotation.tasks.read_prompts", "schedule": every(5.0)},
    "resume-lost-jobs": {"task": "annotation.tasks.resume_lost_jobs", "schedule": every(30.0)},
    "forget-old-counts": {"task": "annotation.tasks.forget_old_counts", "schedule": every(600.0)},
    "refresh-quality": {"task": "annotation.tasks.refresh_quality", "schedule": every(10.0)},
    "refit-quality": {"task": "annotation.tasks.refit_quality", "schedule": every(30.0)},
    "requeue-lost-runs": {"task": "training.tasks.requeue_lost_runs", "schedule": every(15.0)},
    "run-schedules": {"task": "training.tasks.run_schedules", "schedule": every(15.0)},
    "advance-duels": {"task": "training.tasks.advance_duels", "schedule": every(10.0)},
    "advance-matches": {"task": "training.tasks.advance_matches", "schedule": every(10.0)},
}


def get_ready_to_send() -> None:
    """What Celery else does for the first message of each process and thread, while somebody waits for a
    reply: a tenth of a second and more. It opens no connection, so that processes may be forked off after it.
    """
    app.finalize()
    _ = app.amqp, app.backend, app.events.Dispatcher


@worker_process_init.connect
def prepare_process(**_kwargs: object) -> None:
    """What lives as long as the process is not looked through for garbage again and again, and rows that are
    being imported not at every 700 of them.
    """
    start_tracing("worker")
    gc.freeze()
    gc.set_threshold(50_000)
