"""Backup of the whole site, and its restoration into a fresh one with everything compared."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import psycopg
import pytest
from django.conf import settings as django_settings
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.db import connection
from psycopg import sql

from tests.training import factories
from tests.training.conftest import own_folders  # noqa: F401
from training.models import ResumePoint
from webapp import backup
from webapp.embedded.postgres import database_url, find_binaries, socket_folder

pytestmark = pytest.mark.django_db(transaction=True)
# Postgres casts the elements of a list or all of it, depending on whether it read the words of a dump.
CASTS = re.compile(r"::character varying|::text(\[\])?|[()]")
CONDITION = re.compile(r"^\s*(ADD )?CONSTRAINT |^CREATE (UNIQUE )?INDEX ")
FRESH = "tiebreak_restored"


def write(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def read(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def dump(data_dir: Path, database: str) -> list[str]:
    """Everything that a database has, as `pg_dump` says it, without the words that differ each time."""
    command = [find_binaries() / "pg_dump", "-h", socket_folder(data_dir), "-U", "tiebreak", database]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    kept = [line for line in lines if not line.startswith(("--", "\\restrict", "\\unrestrict"))]
    return [CASTS.sub("", line) if CONDITION.search(line) else line for line in kept]


def stored(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def world(tmp_path: Path) -> None:
    """Judgements, a finished run with its result, one that goes on, words that are hard to copy."""
    project = factories.judged_project(prompts=12, votes=2)
    project.guidelines = "Tabs\t, \\N, \\., 'quotes', “–” and 日本語\r\n" * 3
    project.save()
    base = factories.make_base(tmp_path / "models" / "tiny")
    run = factories.queued_run(project, base)
    factories.log_metrics(run)
    factories.finish(run)
    going_on = factories.queued_run(project, base)
    for step in (4, 8):
        key = default_storage.save(f"runs/{going_on.pk}/{step}.zip", ContentFile(b"state %d" % step))
        ResumePoint.objects.create(run=going_on, step=step, storage_key=key, sha256="0" * 64)


@pytest.fixture
def file(world: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(backup, "PART", 4096)  # several parts
    backup.write_backup(tmp_path / "site.backup")
    return tmp_path / "site.backup"


@pytest.fixture
def fresh(data_dir: Path, tmp_path: Path):
    """The environment of a site with a database and a storage that hold nothing."""
    with psycopg.connect(
        host=str(socket_folder(data_dir)), user="tiebreak", dbname="postgres", autocommit=True
    ) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(FRESH)))
        yield os.environ | {
            "DJANGO_SETTINGS_MODULE": "webapp.settings",
            "SECRET_KEY": "only-for-this-test-" * 2,
            "DATABASE_URL": database_url(data_dir, FRESH),
            "STORAGE_URL": f"file://{tmp_path / 'restored'}",
        }
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(FRESH)))


def restore(file: Path, environment: dict[str, str], *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "manage.py", "restore", str(file), *options]
    return subprocess.run(
        command, cwd=django_settings.BASE_DIR, env=environment, capture_output=True, text=True
    )


def test_everything_comes_back(file: Path, fresh: dict[str, str], data_dir: Path, tmp_path: Path) -> None:
    """Rows, sequences, triggers, indexes and files; a second time it needs --replace."""
    assert sum(name.startswith("database/") for name in read(file)) > 1
    assert file.stat().st_mode & 0o777 == 0o600
    done = restore(file, fresh)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"restored {file}: the database and 4 files\n"
    here = dump(data_dir, connection.settings_dict["NAME"])
    assert dump(data_dir, FRESH) == here
    assert any("Tabs\\t, " in line for line in here)
    assert stored(tmp_path / "restored") == stored(tmp_path / "storage")

    again = restore(file, fresh)
    assert again.returncode == 1
    assert "This site is not empty: it has" in again.stderr
    assert "With --replace, they are deleted." in again.stderr
    (tmp_path / "restored" / "stray.txt").write_text("of the site that was")
    replaced = restore(file, fresh, "--replace")
    assert replaced.returncode == 0, replaced.stderr
    assert dump(data_dir, FRESH) == here
    assert stored(tmp_path / "restored") == stored(tmp_path / "storage")


def test_bad_files_are_named_before_anything_changes(file: Path, tmp_path: Path) -> None:
    members = read(file)
    contents = json.loads(members["contents.json"])
    first = next(name for name in members if name.startswith("files/"))
    half = tmp_path / "half"
    half.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    newer = json.dumps(json.loads(members["backup.json"]) | {"format": 2}).encode()
    bad = {
        "half (cannot be read to its end|is incomplete)": half,
        "There is no": tmp_path / "nowhere",
        "cannot be read to its end: ": write_text(tmp_path / "text", "no tar" * 200),
        "is no backup of Tiebreak: it does not begin with backup.json": write(tmp_path / "a", {"x": b"y"}),
        "has format 2; this version reads format 1": write(tmp_path / "b", {"backup.json": newer}),
        f"{first} is not what was backed up": write(tmp_path / "c", members | {first: b"other"}),
        f"{first} is not in it": write(tmp_path / "d", {k: v for k, v in members.items() if k != first}),
        "is incomplete: it ends after": write(
            tmp_path / "e", {k: v for k, v in members.items() if k != "contents.json"}
        ),
        "files/more is not among its contents": write(
            tmp_path / "f", {"backup.json": members["backup.json"], "files/more": b"x"} | members
        ),
    }
    for words, path in bad.items():
        with pytest.raises(backup.BackupError, match=words):
            backup.verify(path)
    assert contents["missing"] == []
    assert backup.verify(file)["members"] == contents["members"]


def write_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_newer_versions_and_busy_sites_are_refused(file: Path) -> None:
    head = backup.verify(file)
    newer = head | {"migrations": [*head["migrations"], ["training", "9999_later"]]}
    with pytest.raises(backup.BackupError, match=r"newer version \(migration training.9999_later\)"):
        backup._refuse_newer(file, newer)
    where = {"host": connection.settings_dict["HOST"], "user": "tiebreak"}
    with (
        psycopg.connect(**where, dbname=connection.settings_dict["NAME"]),
        pytest.raises(backup.BackupError, match="1 other connections use the database"),
    ):
        backup.restore_backup(file, replace=True)


def test_a_file_that_exists_is_not_overwritten(file: Path) -> None:
    with pytest.raises(backup.BackupError, match="exists; give a name that is free"):
        backup.write_backup(file)


def test_files_that_are_gone_are_told(world: None, tmp_path: Path) -> None:
    """And a run does not go on from a state that was not copied."""
    key = ResumePoint.objects.get(step=8).storage_key
    default_storage.delete(key)
    assert backup.write_backup(tmp_path / "site.backup").missing == (key,)
    connection.close()
    counted = backup.restore_backup(tmp_path / "site.backup", replace=True)
    assert (counted.files, counted.missing) == (3, (key,))
    assert [point.step for point in ResumePoint.objects.all()] == [4]
