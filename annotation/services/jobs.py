"""Imports, exports and changes as jobs of the light workers: the message, and again if it was lost."""

import logging
from datetime import datetime, timedelta
from typing import Final, Literal

from kombu.exceptions import OperationalError

from annotation.models import BulkChange, ExportJob, ImportJob, Work

logger = logging.getLogger(__name__)
TaskName = Literal["run_import", "run_export", "run_bulk_change"]
TASKS: Final[dict[type[Work], TaskName]] = {
    ImportJob: "run_import",
    ExportJob: "run_export",
    BulkChange: "run_bulk_change",
}


def enqueue(name: TaskName, job_id: int) -> None:
    """Send it if the broker answers; if not, the row stands, and the periodic task sends it again."""
    from annotation import tasks

    try:
        getattr(tasks, name).delay(job_id=job_id)
    except OperationalError as error:
        logger.warning("%s of job %s waits, because the broker does not answer: %s", name, job_id, error)


def resume_lost_jobs(*, now: datetime, after: timedelta) -> int:
    """Queue jobs again that gave no sign of life for that long; how many."""
    total = 0
    for model, task in TASKS.items():
        rows = model._default_manager.filter(status__in=Work.UNFINISHED)
        lost = list(rows.filter(touched_at__lt=now - after).order_by("pk").values_list("pk", flat=True))
        rows.filter(pk__in=lost).update(touched_at=now)
        for job_id in lost:
            enqueue(task, job_id)
        total += len(lost)
    return total
