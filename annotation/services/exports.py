"""Exports: a worker writes the file once; downloads only read it."""

import json
import tempfile
import uuid
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from django.core.files import File
from django.core.files.storage import default_storage
from django.db import transaction
from django.utils import timezone

from annotation.formats import Format, find_format
from annotation.models import ExportJob, Project, User
from annotation.services.groups import check_filters, read_groups
from annotation.services.jobs import enqueue

MAX_ATTEMPTS: Final = 5
TOUCH_EVERY: Final = 2000  # rows
EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the same rows give the same zip


def start_export(
    *, project: Project, by: User, format: str, filters: dict[str, Any] | None = None
) -> ExportJob:
    """Queue an export of what is there at this moment."""
    find_format(format)
    stored = check_filters(filters or {}).model_dump(mode="json", exclude_defaults=True)
    with transaction.atomic():
        job = ExportJob.objects.create(project=project, format=format, filters=stored, created_by=by)
        transaction.on_commit(partial(enqueue, "run_export", job.pk))
    return job


def run_export(job_id: int) -> None:
    """Write the file. Safe to call twice: the first to finish wins, and the other's file is deleted."""
    job = _start_attempt(job_id)
    if job is None:
        return
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
    if not ExportJob.objects.filter(pk=job.pk, status=ExportJob.Status.RUNNING).update(**values):
        default_storage.delete(key)


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
            return None
        job.status, job.touched_at, job.attempts = ExportJob.Status.RUNNING, timezone.now(), job.attempts + 1
        job.save(update_fields=["status", "touched_at", "attempts"])
    return job


def _write(job: ExportJob, folder: Path) -> tuple[Path, int, dict[str, int]]:
    """The finished file, its number of rows, and what the format could not hold."""
    rows_path, rows = folder / "data.jsonl", 0
    left_out: dict[str, int] = {}
    images: dict[str, str] = {}
    groups = read_groups(project=job.project, before=job.created_at, filters=check_filters(job.filters))
    with rows_path.open("w", encoding="utf-8") as file:
        for row in _rows(find_format(job.format), groups, images, left_out):
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            rows += 1
            if rows % TOUCH_EVERY == 0:
                _touch(job)
    if job.project.modality != Project.Modality.IMAGE:
        return rows_path, rows, left_out
    return _pack(job, rows_path, images), rows, left_out


def _rows(
    form: Format, groups: Iterator[dict[str, Any]], images: dict[str, str], left_out: dict[str, int]
) -> Iterator[dict[str, Any]]:
    for group in groups:
        for candidate in group["candidates"]:
            if "storage_key" in candidate:
                images[candidate["image"]] = candidate.pop("storage_key")
        yield from form.write(group, left_out)


def _pack(job: ExportJob, rows: Path, images: dict[str, str]) -> Path:
    path = rows.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("data.jsonl", EPOCH)
        member.compress_type = zipfile.ZIP_DEFLATED
        with rows.open("rb") as source, archive.open(member, "w", force_zip64=True) as target:
            while part := source.read(1024**2):
                target.write(part)
        for number, (name, key) in enumerate(sorted(images.items())):
            with default_storage.open(key, "rb") as image:
                archive.writestr(zipfile.ZipInfo(f"media/{name}", EPOCH), image.read())
            if number % 500 == 0:
                _touch(job)
    return path


def _touch(job: ExportJob) -> None:
    ExportJob.objects.filter(pk=job.pk).update(touched_at=timezone.now())
