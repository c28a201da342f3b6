"""The whole site in one file, and back: the database as `pg_dump` writes it, and every file of the storage.

The file is a tar that is written and read from front to back, so that neither takes more room than itself:

    backup.json       what it is: format, when, which migrations were applied
    database/000001…  the database as SQL, gzipped, in parts
    files/<key>       what the storage holds
    contents.json     the SHA-256 and size of everything before, and what was deleted while it was copied

The dump and the list of wanted files come from one snapshot of the database. Files of the storage are written
once and named by their content, so that copying them takes as long as it takes while the site works on.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from django.apps import apps
from django.core.files import File
from django.core.files.storage import FileSystemStorage, default_storage
from django.core.management import call_command
from django.db import connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from annotation.postgres.base import limit_silence
from training.models import ResumePoint
from training.services.queue import database_now
from webapp.embedded.postgres import find_binaries

FORMAT: Final = 1
PART: Final = 16 * 1024 * 1024  # bytes of the gzipped dump
CHUNK: Final = 1024 * 1024
HEAD, CONTENTS = "backup.json", "contents.json"
DATABASE, FILES = "database/", "files/"
EMPTY: Final = b"""
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT oid::regclass FROM pg_class c WHERE relnamespace = 'public'::regnamespace
    AND relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = 'e')
  LOOP EXECUTE 'DROP TABLE ' || name || ' CASCADE'; END LOOP;
  FOR name IN SELECT oid::regprocedure FROM pg_proc p WHERE pronamespace = 'public'::regnamespace
    AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = p.oid AND deptype = 'e')
  LOOP EXECUTE 'DROP ROUTINE ' || name || ' CASCADE'; END LOOP;
END $$;
"""


class BackupError(Exception):
    """It cannot be made, or cannot be restored; the message says why and what to do."""


@dataclass
class Counted:
    """What a backup holds. `missing` files were deleted while it was made, or before."""

    files: int = 0
    size: int = 0
    missing: tuple[str, ...] = ()


# Writing


def write_backup(path: Path) -> Counted:
    """Write all of the site to a new file, which appears when it is whole. The site may go on working."""
    if path.exists():
        raise BackupError(f"{path} exists; give a name that is free.")
    draft = path.with_name(f"{path.name}.partial")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            counted = _write(file)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except OSError as error:
        raise BackupError(f"{draft} cannot be written: {error.strerror or error}.") from error
    finally:
        draft.unlink(missing_ok=True)
    return counted


def _write(file: IO[bytes]) -> Counted:
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar, transaction.atomic():
        packer = _Packer(tar)
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # before anything else
            limit_silence(to=None)  # files are copied for as long as there are any
            cursor.execute("SELECT pg_export_snapshot()")
            (snapshot,) = cursor.fetchone()
        head = {
            "product": "tiebreak",
            "format": FORMAT,
            "created_at": database_now().isoformat(),
            "migrations": sorted(map(list, MigrationRecorder(connection).applied_migrations())),
        }
        packer.add(HEAD, json.dumps(head).encode())
        for number, part in enumerate(_dump(snapshot), start=1):
            packer.add(f"{DATABASE}{number:06d}", part)
        wanted, copied = _wanted_files(), set()
        for key in walk_storage():
            try:
                with default_storage.open(key) as source:
                    packer.copy(f"{FILES}{key}", source, default_storage.size(key))
            except FileNotFoundError:  # deleted since it was listed
                continue
            copied.add(key)
        missing = tuple(sorted(wanted - copied))
        contents = {"members": packer.members, "missing": missing}
        packer.add(CONTENTS, json.dumps(contents).encode())
    return Counted(len(copied), file.tell(), missing)


class _Packer:
    """Adds members to a tar and keeps what each is."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self.members: dict[str, list[Any]] = {}  # name: [SHA-256, bytes]
        self._tar = tar

    def add(self, name: str, content: bytes) -> None:
        self.copy(name, io.BytesIO(content), len(content))

    def copy(self, name: str, source: Any, size: int) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o600
        reader = _Hashing(source)
        self._tar.addfile(entry, reader)
        self.members[name] = [reader.digest.hexdigest(), size]


class _Hashing:
    """Hashes what is read through it."""

    def __init__(self, source: Any) -> None:
        self.digest = hashlib.sha256()
        self._source = source

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._source.read(size)
        self.digest.update(content)
        return content


def _dump(snapshot: str) -> Iterator[bytes]:
    """The gzipped SQL of the database as of a snapshot, in parts."""
    command = ["pg_dump", "--no-owner", "--no-privileges", "--compress=gzip:6", f"--snapshot={snapshot}"]
    with _program(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        while part := process.stdout.read(PART):
            yield part


def _wanted_files() -> set[str]:
    """Keys of the storage that rows of the database name."""
    found: set[str] = set()
    for model in apps.get_models():
        if any(field.name == "storage_key" for field in model._meta.get_fields()):
            keys = model._default_manager.exclude(storage_key="").values_list("storage_key", flat=True)
            found.update(keys.iterator())
    return found


def walk_storage(folder: str = "") -> Iterator[str]:
    """The keys of all stored files, folder by folder; drafts of files are none."""
    try:
        folders, files = default_storage.listdir(folder)
    except FileNotFoundError:  # nothing was ever stored
        return
    for name in sorted(files):
        if name and not name.startswith("."):
            yield f"{folder}{name}"
    for name in sorted(folders):
        if name:
            yield from walk_storage(f"{folder}{name}/")


# Reading


def verify(path: Path) -> dict[str, Any]:
    """Read a backup to its end. Returns its head; raises BackupError with what is wrong with it."""
    head: dict[str, Any] = {}
    contents: dict[str, Any] | None = None
    seen: dict[str, list[Any]] = {}
    for name, source in _members(path):
        if not seen:
            head = _read_head(path, name, source)
        elif name == CONTENTS:
            contents = json.loads(source.read())
            break
        reader = _Hashing(source)
        while reader.read(CHUNK):
            pass
        seen[name] = [reader.digest.hexdigest() if name != HEAD else None, None]
    if contents is None:
        raise BackupError(f"{path} is incomplete: it ends after {len(seen)} parts, without its contents.")
    for name, (sha256, _) in contents["members"].items():
        if name not in seen:
            raise BackupError(f"{path} is damaged: {name} is not in it.")
        if name != HEAD and seen[name][0] != sha256:
            raise BackupError(f"{path} is damaged: {name} is not what was backed up (SHA-256 differs).")
    if extra := sorted(seen.keys() - contents["members"].keys()):
        raise BackupError(f"{path} is damaged: {extra[0]} is not among its contents.")
    return head | {"missing": contents["missing"], "members": contents["members"]}


def _read_head(path: Path, name: str, source: IO[bytes]) -> dict[str, Any]:
    try:
        head: dict[str, Any] = json.loads(source.read()) if name == HEAD else {}
    except ValueError:
        head = {}
    if head.get("product") != "tiebreak":
        raise BackupError(f"{path} is no backup of Tiebreak: it does not begin with {HEAD}.")
    if head["format"] != FORMAT:
        raise BackupError(f"{path} has format {head['format']}; this version reads format {FORMAT}.")
    return head


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of every member, in order; each content is read before the next is asked for."""
    try:
        with tarfile.open(path, mode="r|") as tar:
            for entry in tar:
                content = tar.extractfile(entry)
                if content is None:
                    raise BackupError(f"{path} is damaged: {entry.name} is no file.")
                yield entry.name, content
    except FileNotFoundError:
        raise BackupError(f"There is no {path}.") from None
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise BackupError(f"{path} cannot be read to its end: {error}.") from error


# Restoring


def restore_backup(path: Path, *, replace: bool) -> Counted:
    """Make this site what the file holds. First the whole file is checked; nothing changes if it is bad.

    `replace`: what is here is deleted. The database changes in one transaction: wholly or not at all.
    """
    head = verify(path)
    _refuse_newer(path, head)
    _refuse_if_in_use()
    if not replace and (here := _what_is_here()):
        raise BackupError(f"This site is not empty: it has {here}. With --replace, they are deleted.")
    counted = Counted(missing=tuple(head["missing"]))
    keys = set()
    for name, source in _members(path):
        if name.startswith(FILES):
            key = name.removeprefix(FILES)
            _put(key, source)
            keys.add(key)
            counted.size += head["members"][name][1]
    _load(path)
    connection.close()
    call_command("migrate", verbosity=0)
    ResumePoint.objects.filter(storage_key__in=head["missing"]).delete()
    for key in set(walk_storage()) - keys:
        default_storage.delete(key)
    counted.files = len(keys)
    return counted


def _refuse_newer(path: Path, head: dict[str, Any]) -> None:
    known = set(MigrationLoader(None).disk_migrations)
    apps_here = {config.label for config in apps.get_app_configs()}
    unknown = [each for each in map(tuple, head["migrations"]) if each[0] in apps_here and each not in known]
    if unknown:
        name = ".".join(unknown[0])
        raise BackupError(f"{path} was made by a newer version (migration {name}); update this one first.")


def _refuse_if_in_use() -> None:
    """Processes of the site would go on working with what they remember."""
    others = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                AND pid <> pg_backend_pid() AND backend_type = 'client backend'"""
    with connection.cursor() as cursor:
        cursor.execute(others)
        (count,) = cursor.fetchone()
    if count:
        raise BackupError(
            f"{count} other connections use the database: stop web, workers and scheduler first."
        )


def _what_is_here() -> str:
    """In words; empty if nothing would be lost."""
    found = []
    tables = set(connection.introspection.table_names())
    for label in ("annotation.User", "annotation.Project", "training.BaseModel"):
        model = apps.get_model(label)
        if model._meta.db_table in tables and (count := model._default_manager.count()):
            found.append(f"{count} {model._meta.verbose_name_plural}")
    if files := sum(1 for _ in walk_storage()):
        found.append(f"{files} stored files")
    return ", ".join(found)


def _put(key: str, source: IO[bytes]) -> None:
    """Write a stored file in the place of what may be there."""
    if not isinstance(default_storage, FileSystemStorage):
        default_storage.delete(key)
        with tempfile.SpooledTemporaryFile(64 * CHUNK) as copy:
            _pour(source, copy.write)
            copy.seek(0)
            default_storage.save(key, File(copy))
        return
    target = Path(default_storage.path(key))
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.restored")
    with draft.open("wb") as copy:
        _pour(source, copy.write)
    draft.replace(target)


def _pour(source: IO[bytes], write: Callable[[bytes], Any]) -> None:
    while content := source.read(CHUNK):
        write(content)


def _load(path: Path) -> None:
    """Run the dump in one transaction, after all that is there was dropped."""
    unpack = zlib.decompressobj(wbits=31)
    command = [
        "psql",
        "--no-psqlrc",
        "--quiet",
        "--single-transaction",
        "--set=ON_ERROR_STOP=1",
        "--output=/dev/null",
    ]
    with _program(command, stdin=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write(EMPTY)
        for name, source in _members(path):
            if name.startswith(DATABASE):
                _pour(source, lambda part: process.stdin.write(unpack.decompress(part)))  # type: ignore[union-attr]
        process.stdin.write(unpack.flush())
        process.stdin.close()


@contextlib.contextmanager
def _program(command: list[str], **pipes: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """A PostgreSQL program on the site's database. Raises BackupError with its words if it fails."""
    database = connection.settings_dict
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    names = {
        "NAME": "PGDATABASE",
        "USER": "PGUSER",
        "PASSWORD": "PGPASSWORD",
        "HOST": "PGHOST",
        "PORT": "PGPORT",
    }
    environment |= {libpq: str(database[name]) for name, libpq in names.items() if database.get(name)}
    for name, value in database.get("OPTIONS", {}).items():
        if isinstance(value, str) and name.startswith("ssl"):
            environment[f"PG{name.upper()}"] = value
    environment["PGCLIENTENCODING"] = "UTF8"
    with tempfile.TemporaryFile() as said:
        program = [str(find_binaries() / command[0]), *command[1:]]
        process = subprocess.Popen(program, env=environment, stderr=said, **pipes)
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended; its words say why
                yield process
        except BaseException:
            process.kill()
            raise
        finally:
            if process.stdin and not process.stdin.closed:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            code = process.wait()
            if process.stdout:
                process.stdout.close()
        if code:
            said.seek(0)
            words = said.read().decode(errors="replace").strip().splitlines() or [f"exit code {code}"]
            raise BackupError(f"{command[0]} failed: {re.sub(r'^(pg_dump|psql): ', '', words[0])}")
