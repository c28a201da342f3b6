"""Imports: a file becomes comparisons, chunk by chunk.

Each chunk commits its comparisons, its rejected rows and how far the file is done in one transaction, so
that a second attempt after a kill goes on exactly there, and a doubled message finds nothing to do.
"""

import time
import uuid
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.core.files.base import File
from django.core.files.storage import default_storage
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation.errors import Invalid
from annotation.fetching import FetchRefused, fetch
from annotation.formats import Format, find_format
from annotation.formats.archive import DAMAGE, MAX_IMAGE_BYTES, Upload
from annotation.formats.images import BadImage
from annotation.formats.records import Record, UnreadableFile
from annotation.formats.schema import RowError
from annotation.models import ImportJob, Media, Project, RejectedRow, User, Webhook
from annotation.numbers import number
from annotation.prompts import pictures_of, with_pictures
from annotation.services import statements
from annotation.services.comparisons import add_groups, content_of, without_duplicates
from annotation.services.copying import refresh_statistics
from annotation.services.gold import add_known_answers, with_known_answer
from annotation.services.jobs import enqueue
from annotation.services.media import store_image
from annotation.services.webhooks import emit
from annotation.template import most_candidates

CHUNK_LINES: Final = 2000
FIRST_LINES: Final = 500  # soon in the database, so that it has work while the others are read
READ_ON: Final = 64  # rows, about a millisecond of reading
MAX_TOGETHER: Final = 1000  # rows that make up one group, or one tree
CHUNK_BYTES: Final = 4 * 1024**2
CHUNK_SECONDS: Final = 10.0  # pictures take their time; progress should be seen
MAX_ATTEMPTS: Final = 5  # starts without getting any further
STANDING: Final = "SELECT position, status FROM annotation_importjob WHERE id = %(job)s FOR NO KEY UPDATE"
ATTEMPTS_USED_UP: Final = (
    "The import was started {} times and stopped at line {} each time; the worker's log says why."
)


@dataclass(slots=True)
class _Unit:
    """What one row, or the rows that belong together, came to; the picture files in it are still names."""

    first: int
    last: int
    end: int
    size: int
    groups: list[dict[str, Any]] = field(default_factory=list)
    error: RowError | None = None


@dataclass
class _Chunk:
    """What some lines of the file came to, and where they end."""

    groups: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[RejectedRow] = field(default_factory=list)
    fetched: dict[str, Media] = field(default_factory=dict)
    position: int = 0
    line: int = 0


def start_import(
    *,
    project: Project,
    by: User,
    file: File,
    format: str,
    held_out: bool = False,
    skip_duplicates: bool = False,
    use: str = ImportJob.Use.JUDGEMENTS,
) -> ImportJob:
    """Keep the upload and queue its import.

    `use` says what the answers in it are: judgements, or the right ones to gold or test questions.

    A row that has the same prompt and candidates as another of the file or the project is added and counted,
    or, with `skip_duplicates`, only counted.
    """
    find_format(format, modality=project.modality)
    if use not in ImportJob.Use.values:
        raise Invalid(
            {"use": _("is not known; known: %(names)s.") % {"names": ", ".join(ImportJob.Use.values)}}
        )
    if not file.size:
        raise Invalid({"file": _("is empty.")})
    if file.size > settings.IMPORT_MAX_BYTES:
        raise Invalid(
            {
                "file": _("has %(n)s bytes; %(most)s at most. Split it.")
                % {"n": number(file.size), "most": number(settings.IMPORT_MAX_BYTES)}
            }
        )
    key = default_storage.save(f"imports/{uuid.uuid4()}", file)
    file.close()  # a large one was moved there, which its closer would miss otherwise
    with transaction.atomic():
        job = ImportJob.objects.create(
            project=project,
            format=format,
            storage_key=key,
            file_name=(file.name or "").replace("\x00", "")[-200:],
            held_out=held_out,
            skip_duplicates=skip_duplicates,
            use=use,
            created_by=by,
        )
        transaction.on_commit(partial(enqueue, "run_import", job.pk))
    return job


def run_import(job_id: int) -> None:
    """Work on an import until it is done. Safe to call twice, at the same time or after a kill."""
    job = _start_attempt(job_id)
    if job is None:
        return
    form = find_format(job.format)
    try:
        with (
            default_storage.open(job.storage_key, "rb") as file,
            Upload(file.file or file, name=job.file_name, as_csv=form.from_csv) as upload,
        ):
            _note_total(job, upload)
            units = _Units(_read_units(job, form, upload))
            for chunk in _chunks(job, upload, units):
                if not _commit(job, chunk, units.read_on):
                    return  # another worker is at it
    except UnreadableFile as error:
        _finish(job, ImportJob.Status.FAILED, error=str(error))
    except DAMAGE as error:
        _finish(job, ImportJob.Status.FAILED, error=f"The file is damaged after line {job.line}: {error}")
    else:
        _finish(job, ImportJob.Status.DONE)
        refresh_statistics()


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


def _note_total(job: ImportJob, upload: Upload) -> None:
    if job.total != upload.total:
        job.total = upload.total
        job.save(update_fields=["total"])


def _chunks(job: ImportJob, upload: Upload, batches: Iterable[list[_Unit]]) -> Iterator[_Chunk]:
    known = job.use != ImportJob.Use.JUDGEMENTS
    for units in batches:
        chunk, began = _Chunk(), time.monotonic()
        for unit in units:
            _add(job, upload, unit, chunk, known=known)
            if time.monotonic() - began > CHUNK_SECONDS:
                yield chunk
                chunk, began = _Chunk(), time.monotonic()
        if chunk.line:
            yield chunk


class _Units:
    """What the rows come to, so many at a time as make a chunk.

    `read_on` reads a part of the next chunk, for when the database is at work. A thread that reads would
    compete with the one that writes for the interpreter, which took longer than one after the other.
    """

    def __init__(self, units: Iterator[_Unit]) -> None:
        self._units = units
        self._read: list[_Unit] = []
        self._number = self._size = 0
        self._most = min(FIRST_LINES, CHUNK_LINES)
        self._end: Exception | None = None  # StopIteration, or what was wrong with the file

    def __iter__(self) -> Iterator[list[_Unit]]:
        while self._end is None or self._read:
            while self.read_on():
                pass
            if self._read:
                units, self._read, self._number, self._size = self._read, [], 0, 0
                self._most = CHUNK_LINES
                yield units
        if not isinstance(self._end, StopIteration):
            raise self._end

    def read_on(self) -> bool:
        """Whether there is more to read for this chunk."""
        for _row in range(READ_ON):
            if self._end is not None or self._number >= self._most or self._size >= CHUNK_BYTES:
                return False
            try:
                unit = next(self._units)
            except Exception as error:  # noqa: BLE001  raised when it is this row's turn
                self._end = error
                return False
            self._read.append(unit)
            self._number += len(unit.groups) or 1
            self._size += unit.size
        return True


def _read_units(job: ImportJob, form: Format, upload: Upload) -> Iterator[_Unit]:
    """The rows as groups; needs no database."""
    content, most = job.project.modality, most_candidates(job.project.questions)
    for records in _together(upload.records(position=job.position, number=job.line), form):
        yield _read(records, form, content, most)


def _together(records: Iterator[Record], form: Format) -> Iterator[list[Record]]:
    """Records as they are read: alone, or those with an equal key that follow one another."""
    if form.key is None:
        yield from ([record] for record in records)
        return
    unit: list[Record] = []
    last: object = None
    for record in records:
        key = form.key(record.row) if record.row is not None else object()
        if unit and (key != last or len(unit) >= MAX_TOGETHER):
            yield unit
            unit = []
        unit.append(record)
        last = key
    if unit:
        yield unit


def _read(records: list[Record], form: Format, content: str, most: int | None) -> _Unit:
    first, last = records[0], records[-1]
    size = sum(item.size for item in records) if len(records) > 1 else first.size
    unit = _Unit(first.number, last.number, last.end, size)
    try:
        for record in records:
            if record.error is not None:
                raise record.error
        rows = [record.row for record in records if record.row is not None]
        if rows:
            unit.groups = form.read(rows, content=content)
            for group in unit.groups:
                _check_number(group, most)
                if not _has_pictures(group):
                    group["content"] = content_of(group)
    except RowError as error:
        unit.error = error
    return unit


def _add(job: ImportJob, upload: Upload, unit: _Unit, chunk: _Chunk, *, known: bool) -> None:
    """Keep what was read, with the pictures in it; its answers are `known` to be right."""
    try:
        if unit.error is not None:
            raise unit.error
        groups = [with_known_answer(group, job.project) for group in unit.groups] if known else unit.groups
        chunk.groups += [
            group if "content" in group else _with_images(group, upload, chunk.fetched) for group in groups
        ]
    except RowError as error:
        reason = {"field": error.field[:100], "reason": error.reason[:500]}
        chunk.rejected.append(RejectedRow(job=job, line=unit.first, **reason))
    chunk.position, chunk.line = unit.end, unit.last


def _check_number(group: dict[str, Any], most: int | None) -> None:
    """Raise `RowError` where the template cannot ask about so many candidates."""
    if most is not None and len(group["candidates"]) > most:
        raise RowError("candidates", f"are {len(group['candidates'])}; this project ranks {most} at most")


def _has_pictures(group: dict[str, Any]) -> bool:
    for item in group["candidates"]:
        if "image" in item:
            return True
    return bool(pictures_of(group["prompt"]))


def _with_images(group: dict[str, Any], upload: Upload, fetched: dict[str, Media]) -> dict[str, Any]:
    def part_of(_number: int, name: str | bytes) -> dict[str, str]:
        return {"image": _stored(name, upload, "prompt", fetched).sha256}

    group["prompt"] = with_pictures(group["prompt"], part_of)
    for index, candidate in enumerate(group["candidates"]):
        if "image" in candidate:
            candidate["image"] = _stored(candidate["image"], upload, f"candidates.{index}.image", fetched)
    return group


def _stored(image: str | bytes, upload: Upload, field: str, fetched: dict[str, Media]) -> Media:
    """A picture that a row names, holds or points to."""
    if isinstance(image, str) and image in fetched:
        return fetched[image]
    name = repr(image[:60]) if isinstance(image, str) else "The picture"
    try:
        if isinstance(image, bytes):
            return store_image(image)
        data = _image_bytes(image, upload, field)
        fetched[image] = store_image(data)
    except (BadImage, FetchRefused) as error:
        raise RowError(field, f"{name} {error}") from error
    return fetched[image]


def _image_bytes(image: str, upload: Upload, field: str) -> bytes:
    if image.startswith(("http://", "https://")):
        return fetch(image, hosts=settings.IMPORT_URL_ALLOWLIST, limit=MAX_IMAGE_BYTES)
    if image.startswith("data:"):
        head, _comma, encoded = image.partition(",")
        try:
            return b64decode(encoded, validate=True)
        except ValueError as error:
            raise RowError(field, f"begins with {head[:40]!r} but is not base64: {error}") from error
    return upload.image(image, field=field)


@transaction.atomic
def _commit(job: ImportJob, chunk: _Chunk, meanwhile: Callable[[], object]) -> bool:
    """Store a chunk and the position behind it; False if somebody else has moved the position.

    What a server that loses its power forgets of it, it forgets together with the position, so that nobody
    waits for the disk before `_finish`, which does.
    """
    statements.execute("SET LOCAL synchronous_commit = off", {})
    if statements.fetch(STANDING, {"job": job.pk}) != [(job.position, ImportJob.Status.RUNNING)]:
        return False
    if job.use == ImportJob.Use.JUDGEMENTS:
        new, equal = without_duplicates(project=job.project, groups=chunk.groups, skip=job.skip_duplicates)
        add_groups(
            project=job.project, groups=new, held_out=job.held_out, import_job=job, meanwhile=meanwhile
        )
    else:
        new, equal = chunk.groups, add_known_answers(project=job.project, groups=chunk.groups, job=job)
    RejectedRow.objects.bulk_create(chunk.rejected)
    job.accepted += len(new)
    job.duplicates += equal
    job.rejected += len(chunk.rejected)
    job.position, job.line, job.attempts, job.touched_at = chunk.position, chunk.line, 0, timezone.now()
    done = ["accepted", "duplicates", "rejected", "position", "line", "attempts", "touched_at"]
    job.save(update_fields=done)
    return True


@transaction.atomic
def _finish(job: ImportJob, status: str, *, error: str = "") -> None:
    """End the job once. The upload is deleted; its rows are in the database."""
    values = {"status": status, "error": error, "finished_at": timezone.now()}
    unfinished = ImportJob.objects.filter(pk=job.pk, status__in=ImportJob.UNFINISHED, position=job.position)
    if unfinished.update(**values):
        data = {"import": job.pk, "status": status, "error": error, "accepted": job.accepted}
        data |= {"rejected": job.rejected, "duplicates": job.duplicates}
        emit(project=job.project_id, event=Webhook.Event.IMPORT_FINISHED, data=data)
        transaction.on_commit(partial(default_storage.delete, job.storage_key))
