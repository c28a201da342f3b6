"""Uploaded files: rows as JSONL, or a zip of one .jsonl and the images that its rows name.

Nothing is unpacked to a path that a stranger chose: members are read by name from the archive. Names that
lead elsewhere, links, encryption, and members that unpack to more than they should are refused.
"""

import stat
import zipfile
import zlib
from typing import IO, Final, Self

from django.conf import settings

from annotation.formats.lines import UnreadableFile
from annotation.formats.schema import RowError

MAX_MEMBERS: Final = 200_000
MAX_RATIO: Final = 200  # unpacked to packed; JSON rarely passes 20
RATIO_FREE: Final = 1024**2  # bytes up to which the ratio says nothing
MAX_IMAGE_BYTES: Final = 100 * 1024**2
# What Python raises for members that are broken or packed in a way it does not know.
DAMAGE: Final = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError)


class Upload:
    """An open upload: `rows` is the JSONL, `image(name)` the bytes of a picture. A context manager."""

    def __init__(self, file: IO[bytes]) -> None:
        self._archive = _open_archive(file)
        if self._archive is None:
            file.seek(0)
            self.rows = file
            self._members: dict[str, zipfile.ZipInfo] = {}
            self._folder = ""
        else:
            self._members = _checked_members(self._archive)
            name = _name_of_rows(self._members)
            self._folder = name.rpartition("/")[0]
            self.rows = self._archive.open(self._members[name])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.rows.close()
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
    names = [name for name in members if name.lower().endswith(".jsonl")]
    if len(names) != 1:
        found = ", ".join(names[:3]) or "none"
        raise UnreadableFile(f"The zip must hold exactly one .jsonl file; found {len(names)} ({found}).")
    return names[0]
