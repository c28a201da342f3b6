"""Imports and exports as jobs of the light workers: sending the message, and again if it was lost."""

import logging
from datetime import datetime, timedelta
from typing import Literal

from kombu.exceptions import OperationalError

from annotation.models import ExportJob, ImportJob

logger = logging.getLogger(__name__)
TaskName = Literal["run_import", "run_export"]


def enqueue(name: TaskName, job_id: int) -> None:
    """Send it if the broker answers; if not, the row stands, and the periodic task sends it again."""
    from annotation import tasks

    try:
        getattr(tasks, name).delay(job_id=job_id)
    except OperationalError as error:
        logger.warning("%s of job %s waits, because the broker does not answer: %s", name, job_id, error)


def resume_lost_jobs(*, now: datetime, after: timedelta) -> int:
    """Queue jobs again that gave no sign of life for that long; how many."""
    imports = ImportJob.objects.filter(status__in=ImportJob.UNFINISHED, touched_at__lt=now - after)
    exports = ExportJob.objects.filter(status__in=ExportJob.UNFINISHED, touched_at__lt=now - after)
    lost_imports = list(imports.order_by("pk").values_list("pk", flat=True))
    lost_exports = list(exports.order_by("pk").values_list("pk", flat=True))
    ImportJob.objects.filter(pk__in=lost_imports).update(touched_at=now)
    ExportJob.objects.filter(pk__in=lost_exports).update(touched_at=now)
    for job_id in lost_imports:
        enqueue("run_import", job_id)
    for job_id in lost_exports:
        enqueue("run_export", job_id)
    return len(lost_imports) + len(lost_exports)
