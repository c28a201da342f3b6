"""Uploaded files: rows as JSONL, a JSON array, Parquet or CSV, perhaps gzipped; or a zip of one such file and
the images that its rows name.

Nothing is unpacked to a path that a stranger chose: members are read by name from the archive. Names that
lead elsewhere, links, encryption, and members that unpack to more than they should are refused.
"""

import gzip
import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, Self

from django.conf import settings

from annotation.formats.json_array import read_elements
from annotation.formats.lines import read_lines
from annotation.formats.records import BOM, Record, UnreadableFile
from annotation.formats.schema import RowError
from annotation.formats.tables import open_parquet, read_csv, read_parquet

MAX_MEMBERS: Final = 200_000
MAX_RATIO: Final = 200  # unpacked to packed; JSON rarely passes 20
RATIO_FREE: Final = 1024**2  # bytes up to which the ratio says nothing
MAX_IMAGE_BYTES: Final = 100 * 1024**2
GZIP: Final = b"\x1f\x8b"
PARQUET: Final = b"PAR1"
ENDINGS: Final = (".jsonl", ".json", ".parquet", ".csv", ".jsonl.gz", ".json.gz", ".csv.gz")
# What Python raises for members that are broken or packed in a way it does not know.
DAMAGE: Final = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError)


class Upload:
    """An open upload: `records()` are its rows, `image(name)` the bytes of a picture. A context manager.

    `total` is what positions run up to, or 0 where nobody knows before the end.
    """

    def __init__(self, file: IO[bytes], *, name: str = "", as_csv: bool = False) -> None:
        self._archive = _open_archive(file)
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._folder = ""
        self._opened: list[IO[Any]] = []
        size = file.seek(0, os.SEEK_END)
        if self._archive is not None:
            self._members = _checked_members(self._archive)
            name = _name_of_rows(self._members)
            self._folder = name.rpartition("/")[0]
            size = self._members[name].file_size
            file = self._keep(self._archive.open(self._members[name]))
        file.seek(0)
        if file.read(2) == GZIP:
            file, size = self._keep(_Gunzipped(file)), 0
            name = name.removesuffix(".gz")
        self._file, self._read = file, _reader_for(file, name, as_csv=as_csv)
        self.total = size
        if self._read is read_parquet:
            if self._archive is not None:  # its end has to be read first, and then what comes before
                self._file = self._keep(tempfile.TemporaryFile())  # noqa: SIM115
                file.seek(0)
                shutil.copyfileobj(file, self._file)
            self.total = open_parquet(self._file).metadata.num_rows

    def _keep(self, file: Any) -> IO[bytes]:
        self._opened.append(file)
        return file

    def records(self, *, position: int = 0, number: int = 0) -> Iterator[Record]:
        """The rows behind a position, of which `number` lie before it."""
        return self._read(self._file, position=position, number=number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in reversed(self._opened):
            file.close()
        if self._archive is not None:
            self._archive.close()

    def image(self, name: str, *, field: str) -> bytes:
        """The file that a row names: beside the rows, in `media/` beside them, or from the top of the zip."""
        if self._archive is None:
            raise RowError(field, f"names the picture {name!r}, but the upload is no zip with pictures in it")
        beside = f"{self._folder}/" if self._folder else ""
        member = next(
            (
                self._members[path]
                for path in (f"{beside}{name}", f"{beside}media/{name}", name)
                if path in self._members
            ),
            None,
        )
        if member is None:
            raise RowError(field, f"names {name!r}, which is not in the zip")
        if member.file_size > MAX_IMAGE_BYTES:
            raise RowError(field, f"{name!r} has {member.file_size:,} bytes; {MAX_IMAGE_BYTES:,} at most")
        try:
            with self._archive.open(member) as file:
                return file.read(MAX_IMAGE_BYTES)
        except DAMAGE as error:
            raise RowError(field, f"{name!r} is damaged in the zip: {error}") from error


class _Gunzipped(gzip.GzipFile):
    """A gzipped file that may not unpack to more than an import may hold."""

    def __init__(self, file: IO[bytes]) -> None:
        file.seek(0)
        super().__init__(fileobj=file, mode="rb")

    def read(self, size: int | None = -1) -> bytes:
        return self._checked(super().read(size))

    def readline(self, size: int | None = -1) -> bytes:
        return self._checked(super().readline(size))

    def _checked(self, part: bytes) -> bytes:
        if self.tell() > settings.IMPORT_MAX_BYTES:
            raise UnreadableFile(
                f"The file unpacks to more than {settings.IMPORT_MAX_BYTES:,} bytes. Split it."
            )
        return part


def _reader_for(file: IO[bytes], name: str, *, as_csv: bool) -> Callable[..., Iterator[Record]]:
    """How the file is read: by its first bytes, and by its name where those say nothing."""
    file.seek(0)
    head = file.read(4096)
    if head.startswith(PARQUET):
        return read_parquet
    first = head.removeprefix(BOM).lstrip()[:1]
    if name.lower().endswith(".csv") or (as_csv and first not in (b"{", b"[")):
        return read_csv
    return read_elements if first == b"[" else read_lines


def _open_archive(file: IO[bytes]) -> zipfile.ZipFile | None:
    file.seek(0)
    if file.read(4) not in (b"PK\x03\x04", b"PK\x05\x06"):
        return None
    file.seek(0)
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UnreadableFile(f"The zip is damaged ({error}); pack it again.") from error


def _checked_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files by name. Raises `UnreadableFile` for an archive that an honest packer would not make."""
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise UnreadableFile(f"The zip holds {len(infos):,} files; {MAX_MEMBERS:,} at most. Split it.")
    total = sum(info.file_size for info in infos)
    if total > settings.IMPORT_MAX_BYTES:
        raise UnreadableFile(
            f"The zip unpacks to {total:,} bytes; {settings.IMPORT_MAX_BYTES:,} at most. Split it."
        )
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        _check_member(info)
        if info.is_dir() or info.filename.startswith("__MACOSX/"):
            continue
        if info.filename in members:
            raise UnreadableFile(f"The zip holds {info.filename!r} twice.")
        members[info.filename] = info
    return members


def _check_member(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename.replace("\\", "/")
    if name.startswith("/") or ":" in name.split("/")[0] or ".." in name.split("/") or "\x00" in name:
        raise UnreadableFile(
            f"The zip holds the name {name!r}, which leads out of it; pack it again without."
        )
    if stat.S_ISLNK(info.external_attr >> 16):
        raise UnreadableFile(f"{name!r} in the zip is a link; pack the file itself.")
    if info.flag_bits & 0x1:
        raise UnreadableFile(f"{name!r} in the zip is encrypted; pack it without a password.")
    if info.file_size > RATIO_FREE and info.file_size > MAX_RATIO * max(info.compress_size, 1):
        raise UnreadableFile(
            f"{name!r} in the zip unpacks to over {MAX_RATIO} times its size; it looks like a bomb."
        )


def _name_of_rows(members: dict[str, zipfile.ZipInfo]) -> str:
    names = [name for name in members if name.lower().endswith(ENDINGS)]
    if len(names) != 1:
        found = ", ".join(names[:3]) or "none"
        raise UnreadableFile(
            "The zip must hold exactly one file of rows (.jsonl, .json, .parquet or .csv); "
            f"found {len(names)} ({found})."
        )
    return names[0]
