"""Files in Django's default storage: written once, whole or not at all, named by the hash of their bytes.

Zips are deterministic: the same files give the same bytes, whoever packs them and whenever.
"""

import hashlib
import io
import os
import shutil
import stat
import tempfile
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from django.conf import settings
from django.core.files import File
from django.core.files.storage import FileSystemStorage, default_storage

CHUNK = 1024 * 1024
RANGE = CHUNK // 4  # fetched at once of a zip of which a part is read
COMPRESSED = {".jsonl", ".json", ".txt", ".md"}  # weights and images do not get smaller
EPOCH = (1980, 1, 1, 0, 0, 0)


class StorageError(Exception):
    """A stored file is missing, is not what was stored, or cannot be unpacked."""


@dataclass(frozen=True)
class Stored:
    """Where a file is, and what it is. `size` in bytes."""

    key: str
    sha256: str
    size: int


def put_file(path: Path, *, folder: str) -> Stored:
    """Store a file as `folder/<sha256><suffix>`; the same bytes are stored once."""
    sha256, size = hash_file(path), path.stat().st_size
    key = f"{folder}/{sha256}{path.suffix}"
    with _own_errors(key):
        is_there = default_storage.exists(key) and default_storage.size(key) == size
    if not is_there:
        _write(key, path)
    return Stored(key, sha256, size)


def put_zip(source: Path, *, folder: str) -> Stored:
    """Store what is under `source` as one zip. Needs room for it in the work directory."""
    with scratch_folder() as scratch:
        packed = scratch / "packed.zip"
        write_zip(source, packed)
        return put_file(packed, folder=folder)


def delete(key: str) -> None:
    """Remove a stored file; one that is gone already is fine."""
    with _own_errors(key):
        default_storage.delete(key)


@contextmanager
def local_copy(key: str) -> Iterator[Path]:
    """The stored file as a path on this machine, for the length of the block."""
    with _own_errors(key):
        if not default_storage.exists(key):
            raise StorageError(f"{key} is not in the storage. Was the storage moved or emptied?")
    if isinstance(default_storage, FileSystemStorage):
        yield Path(default_storage.path(key))
        return
    with scratch_folder() as scratch:
        path = scratch / PurePosixPath(key).name
        copy_to(key, path)
        yield path


@contextmanager
def open_zip(key: str) -> Iterator[zipfile.ZipFile]:
    """A stored zip, to read some of its files: of a store of objects no more is fetched than is read."""
    with ExitStack() as stack:
        try:
            with _own_errors(key):
                file: Any = stack.enter_context(default_storage.open(key))
        except FileNotFoundError:
            raise StorageError(f"{key} is not in the storage. Was the storage moved or emptied?") from None
        if hasattr(file, "obj"):  # of S3; Django's file would fetch the whole at the first byte
            file = stack.enter_context(io.BufferedReader(_Ranges(file.obj), RANGE))
        yield stack.enter_context(zipfile.ZipFile(file))


class _Ranges(io.RawIOBase):
    """An object of S3 (boto3's), read by ranges of bytes."""

    def __init__(self, stored: Any) -> None:
        self._stored, self._size, self._at = stored, int(stored.content_length), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        end = min(self._at + len(buffer), self._size)
        if self._at >= end:
            return 0
        with _own_errors(self._stored.key):
            found = self._stored.get(Range=f"bytes={self._at}-{end - 1}")["Body"].read()
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def copy_to(key: str, path: Path) -> None:
    """Write the stored file to `path`."""
    try:
        with _own_errors(key), default_storage.open(key) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, CHUNK)
    except FileNotFoundError:
        raise StorageError(f"{key} is not in the storage. Was the storage moved or emptied?") from None


def unpack(key: str, *, sha256: str, target: Path) -> None:
    """Unpack a stored zip into the new folder `target`, which appears by rename. Checks its hash first."""
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    with local_copy(key) as path:
        if (found := hash_file(path)) != sha256:
            raise StorageError(f"{key} was damaged: its SHA-256 is {found[:12]}…, not {sha256[:12]}….")
        extract_zip(path, draft)
    draft.rename(target)


def write_zip(source: Path, target: Path) -> None:
    """Pack the files under `source`, by name, without times, owners or modes."""
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(source.rglob("*"), key=lambda path: path.relative_to(source).as_posix()):
            if path.is_symlink():
                raise StorageError(f"{path} is a link; only files can be stored.")
            if not path.is_file():
                continue
            entry = zipfile.ZipInfo(path.relative_to(source).as_posix(), date_time=EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED if path.suffix in COMPRESSED else zipfile.ZIP_STORED
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, wherever this runs
            entry.file_size = path.stat().st_size  # beyond 2 GiB the entry needs another form from its start
            with path.open("rb") as content, archive.open(entry, "w") as packed:
                shutil.copyfileobj(content, packed, CHUNK)


def extract_zip(path: Path, target: Path) -> None:
    """Unpack into `target`. Raises StorageError for a name that leads out of it and for a link."""
    target.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                _refuse_unsafe(entry)
                if entry.is_dir():
                    continue
                destination = target / entry.filename
                destination.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as packed, destination.open("wb") as content:
                    shutil.copyfileobj(packed, content, CHUNK)
    except zipfile.BadZipFile as error:
        raise StorageError(f"{path.name} is not a zip that can be read: {error}") from None


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder in the work directory that is removed after the block."""
    settings.WORK_DIR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=settings.WORK_DIR) as folder:
        yield Path(folder)


@contextmanager
def _own_errors(key: str) -> Iterator[None]:
    """Every backend has errors of its own; callers know OSError and StorageError."""
    try:
        yield
    except (OSError, StorageError):
        raise
    except Exception as error:
        raise StorageError(f"The storage failed at {key}: {error}") from error


def _write(key: str, path: Path) -> None:
    if not isinstance(default_storage, FileSystemStorage):
        with path.open("rb") as content, _own_errors(key):  # object stores show only what is complete
            saved = default_storage.save(key, File(content))
        if saved != key:
            raise StorageError(f"The storage saved {key} as {saved}; it must not rename files.")
        return
    target = Path(default_storage.path(key))
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with path.open("rb") as content, draft.open("wb") as copy:
            shutil.copyfileobj(content, copy, CHUNK)
            copy.flush()
            os.fsync(copy.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _refuse_unsafe(entry: zipfile.ZipInfo) -> None:
    name = PurePosixPath(entry.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in entry.filename:
        raise StorageError(f"The zip holds {entry.filename!r}, which leads out of its folder.")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise StorageError(f"The zip holds {entry.filename!r}, which is a link.")
