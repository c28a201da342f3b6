"""Exports: a worker writes the file once; downloads only read it."""

import json
import tempfile
import uuid
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, Final

from django.core.files import File
from django.core.files.storage import default_storage
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation.errors import Invalid
from annotation.formats import find_format
from annotation.formats.packing import CONTAINERS, pack
from annotation.models import ExportJob, Project, User, Webhook
from annotation.services.copying import refresh_statistics
from annotation.services.filters import check_filters
from annotation.services.groups import read_groups
from annotation.services.jobs import enqueue
from annotation.services.webhooks import emit

MAX_ATTEMPTS: Final = 5
TOUCH_EVERY: Final = 2000  # rows
EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the same rows give the same zip


def start_export(
    *,
    project: Project,
    by: User,
    format: str,
    filters: dict[str, Any] | None = None,
    container: str = "",
) -> ExportJob:
    """Queue an export of what is there at this moment, packed as jsonl, json, csv or parquet."""
    form = find_format(format, modality=project.modality)
    container = container or form.container
    if container not in CONTAINERS or (container == "csv" and not form.from_csv):
        known = [name for name in CONTAINERS if name != "csv" or form.from_csv]
        raise Invalid(
            {
                "container": _("%(container)r cannot hold %(format)s; supported: %(known)s.")
                % {"container": container, "format": format, "known": ", ".join(known)}
            }
        )
    stored = check_filters(filters or {}).model_dump(mode="json", exclude_defaults=True)
    with transaction.atomic():
        job = ExportJob.objects.create(
            project=project, format=format, container=container, filters=stored, created_by=by
        )
        transaction.on_commit(partial(enqueue, "run_export", job.pk))
    return job


def run_export(job_id: int) -> None:
    """Write the file. Safe to call twice: the first to finish wins, and the other's file is deleted."""
    job = _start_attempt(job_id)
    if job is None:
        return
    refresh_statistics()
    with tempfile.TemporaryDirectory() as scratch:
        path, rows, left_out = _write(job, Path(scratch))
        with path.open("rb") as file:
            key = default_storage.save(f"exports/{uuid.uuid4()}{path.suffix}", File(file))
    values = {
        "status": ExportJob.Status.DONE,
        "storage_key": key,
        "file_name": f"{job.format}-{job.project_id}-{job.pk}{path.suffix}",
        "rows": rows,
        "left_out": left_out,
        "finished_at": timezone.now(),
    }
    with transaction.atomic():
        if ExportJob.objects.filter(pk=job.pk, status=ExportJob.Status.RUNNING).update(**values):
            _tell(job, rows=rows)
            return
    default_storage.delete(key)


def _tell(job: ExportJob, *, rows: int = 0, error: str = "") -> None:
    status = ExportJob.Status.FAILED if error else ExportJob.Status.DONE
    data = {"export": job.pk, "status": status, "error": error, "rows": rows}
    emit(project=job.project_id, event=Webhook.Event.EXPORT_FINISHED, data=data)


def _start_attempt(job_id: int) -> ExportJob | None:
    with transaction.atomic():
        job = ExportJob.objects.select_for_update(no_key=True).select_related("project").get(pk=job_id)
        if job.status not in ExportJob.UNFINISHED:
            return None
        if job.attempts >= MAX_ATTEMPTS:
            job.error = (
                f"The export was started {job.attempts} times and never finished; the worker's log says why."
            )
            job.status, job.finished_at = ExportJob.Status.FAILED, timezone.now()
            job.save(update_fields=["status", "error", "finished_at"])
            _tell(job, error=job.error)
            return None
        job.status, job.touched_at, job.attempts = ExportJob.Status.RUNNING, timezone.now(), job.attempts + 1
        job.save(update_fields=["status", "touched_at", "attempts"])
    return job


def _write(job: ExportJob, folder: Path) -> tuple[Path, int, dict[str, int]]:
    """The finished file, its number of rows, and what the format could not hold."""
    rows_path, rows = folder / "data.jsonl", 0
    left_out: dict[str, int] = {}
    images: dict[str, str] = {}
    form, filters = find_format(job.format), check_filters(job.filters)
    groups = read_groups(project=job.project, before=job.created_at, filters=filters)
    with rows_path.open("w", encoding="utf-8") as file:
        for group in groups:
            _note_images(group, images)
            for row in form.rows_of(group, left_out, all_kinds=filters.kinds is not None):
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
                rows += 1
                if rows % TOUCH_EVERY == 0:
                    _touch(job, rows)

    def open_picture(name: str) -> bytes:
        with default_storage.open(images[name], "rb") as image:
            return image.read()

    path = pack(rows_path, job.container, pictures=form.pictures, open_picture=open_picture)
    inside = job.container == "parquet" and form.pictures
    if inside or (job.project.modality != Project.Modality.IMAGE and not images):
        return path, rows, left_out
    return _zip(job, path, images), rows, left_out


def _note_images(group: dict[str, Any], images: dict[str, str]) -> None:
    images |= group.pop("prompt_images", {})
    for candidate in group["candidates"]:
        if "storage_key" in candidate:
            images[candidate["image"]] = candidate.pop("storage_key")


def _zip(job: ExportJob, rows: Path, images: dict[str, str]) -> Path:
    path = rows.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo(rows.name, EPOCH)
        member.compress_type = zipfile.ZIP_DEFLATED
        with rows.open("rb") as source, archive.open(member, "w", force_zip64=True) as target:
            while part := source.read(1024**2):
                target.write(part)
        for number, (name, key) in enumerate(sorted(images.items())):
            with default_storage.open(key, "rb") as image:
                archive.writestr(zipfile.ZipInfo(f"media/{name}", EPOCH), image.read())
            if number % 500 == 0:
                _touch(job, job.rows)
    return path


def _touch(job: ExportJob, rows: int) -> None:
    job.rows = rows
    running = ExportJob.objects.filter(pk=job.pk, status=ExportJob.Status.RUNNING)
    running.update(touched_at=timezone.now(), rows=rows)
