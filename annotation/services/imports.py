"""Imports: a file becomes comparisons, chunk by chunk.

Each chunk commits its comparisons, its rejected rows and how far the file is done in one transaction, so
that a second attempt after a kill goes on exactly there, and a doubled message finds nothing to do.
"""

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.core.files.base import File
from django.core.files.storage import default_storage
from django.db import transaction
from django.db.models import Count
from django.utils import timezone

from annotation.errors import Invalid
from annotation.formats import find_format
from annotation.formats.archive import DAMAGE, Upload
from annotation.formats.images import BadImage
from annotation.formats.lines import Line, UnreadableFile, parse_line, read_lines
from annotation.formats.schema import RowError
from annotation.models import ImportJob, Project, RejectedRow, User
from annotation.services.comparisons import add_comparisons
from annotation.services.jobs import enqueue
from annotation.services.media import store_image

CHUNK_LINES: Final = 500
CHUNK_BYTES: Final = 4 * 1024**2
CHUNK_SECONDS: Final = 10.0  # pictures take their time; progress should be seen
MAX_ATTEMPTS: Final = 5  # starts without getting any further
ATTEMPTS_USED_UP: Final = (
    "The import was started {} times and stopped at line {} each time; the worker's log says why."
)


@dataclass
class _Chunk:
    """What some lines of the file came to, and where they end."""

    groups: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)
    position: int = 0
    line: int = 0


def start_import(*, project: Project, by: User, file: File, format: str, held_out: bool = False) -> ImportJob:
    """Keep the upload and queue its import."""
    find_format(format)
    if not file.size:
        raise Invalid({"file": "is empty."})
    if file.size > settings.IMPORT_MAX_BYTES:
        raise Invalid({"file": f"has {file.size:,} bytes; {settings.IMPORT_MAX_BYTES:,} at most. Split it."})
    key = default_storage.save(f"imports/{uuid.uuid4()}", file)
    with transaction.atomic():
        job = ImportJob.objects.create(
            project=project,
            format=format,
            storage_key=key,
            file_name=(file.name or "").replace("\x00", "")[-200:],
            held_out=held_out,
            created_by=by,
        )
        transaction.on_commit(partial(enqueue, "run_import", job.pk))
    return job


def run_import(job_id: int) -> None:
    """Work on an import until it is done. Safe to call twice, at the same time or after a kill."""
    job = _start_attempt(job_id)
    if job is None:
        return
    try:
        with default_storage.open(job.storage_key, "rb") as file, Upload(file) as upload:
            for chunk in _chunks(job, upload):
                if not _commit(job, chunk):
                    return  # another worker is at it
    except UnreadableFile as error:
        _finish(job, ImportJob.Status.FAILED, error=str(error))
    except DAMAGE as error:
        _finish(job, ImportJob.Status.FAILED, error=f"The file is damaged after line {job.line}: {error}")
    else:
        _finish(job, ImportJob.Status.DONE)


def _start_attempt(job_id: int) -> ImportJob | None:
    with transaction.atomic():
        job = ImportJob.objects.select_for_update(no_key=True).select_related("project").get(pk=job_id)
        if job.status not in ImportJob.UNFINISHED:
            return None
        if job.attempts >= MAX_ATTEMPTS:
            _finish(job, ImportJob.Status.FAILED, error=ATTEMPTS_USED_UP.format(job.attempts, job.line))
            return None
        job.status, job.touched_at, job.attempts = ImportJob.Status.RUNNING, timezone.now(), job.attempts + 1
        job.save(update_fields=["status", "touched_at", "attempts"])
    return job


def _chunks(job: ImportJob, upload: Upload) -> Iterator[_Chunk]:
    chunk, began, size = _Chunk(), time.monotonic(), 0
    for line in read_lines(upload.rows, position=job.position, number=job.line):
        _read_line(job, upload, line, chunk)
        size += len(line.raw or b"")
        chunk.position, chunk.line = line.end, line.number
        count = len(chunk.groups) + len(chunk.rejected)
        if count >= CHUNK_LINES or size >= CHUNK_BYTES or time.monotonic() - began > CHUNK_SECONDS:
            yield chunk
            chunk, began, size = _Chunk(), time.monotonic(), 0
    if chunk.line:
        yield chunk


def _read_line(job: ImportJob, upload: Upload, line: Line, chunk: _Chunk) -> None:
    try:
        row = parse_line(line.raw)
        if row is not None:
            group = find_format(job.format).read(row, content=job.project.modality)
            chunk.groups.append(_with_images(group, upload))
    except RowError as error:
        reason = {"field": error.field[:100], "reason": error.reason[:500]}
        chunk.rejected.append(RejectedRow(job=job, line=line.number, **reason))


def _with_images(group: dict[str, Any], upload: Upload) -> dict[str, Any]:
    for index, candidate in enumerate(group["candidates"]):
        if "image" in candidate:
            where = f"candidates.{index}.image"
            data = upload.image(candidate["image"], field=where)
            try:
                candidate["image"] = store_image(data)
            except BadImage as error:
                raise RowError(where, f"{candidate['image']!r} {error}") from error
    return group


@transaction.atomic
def _commit(job: ImportJob, chunk: _Chunk) -> bool:
    """Store a chunk and the position behind it; False if somebody else has moved the position."""
    now = ImportJob.objects.select_for_update(no_key=True).get(pk=job.pk)
    if now.position != job.position or now.status != ImportJob.Status.RUNNING:
        return False
    add_comparisons(project=job.project, groups=chunk.groups, held_out=job.held_out, import_job=job)
    RejectedRow.objects.bulk_create(chunk.rejected)
    job.accepted += len(chunk.groups)
    job.rejected += len(chunk.rejected)
    job.position, job.line, job.attempts, job.touched_at = chunk.position, chunk.line, 0, timezone.now()
    job.save(update_fields=["accepted", "rejected", "position", "line", "attempts", "touched_at"])
    return True


@transaction.atomic
def _finish(job: ImportJob, status: str, *, error: str = "") -> None:
    """End the job once. The upload is deleted; its rows are in the database."""
    kinds = job.comparisons.aggregate(rows=Count("pk"), different=Count("content_key", distinct=True))
    values = {"status": status, "error": error, "finished_at": timezone.now()}
    values["duplicates"] = kinds["rows"] - kinds["different"]
    unfinished = ImportJob.objects.filter(pk=job.pk, status__in=ImportJob.UNFINISHED, position=job.position)
    if unfinished.update(**values):
        transaction.on_commit(partial(default_storage.delete, job.storage_key))
