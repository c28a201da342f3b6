"""Deterministic zips, whole files, safe unpacking."""

import io
import os
import stat
import zipfile

import pytest
from django.core.files.storage import default_storage

from training import storage


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.json").write_text("{}")
    (folder / "sub" / "a.safetensors").write_bytes(b"weights" * 1000)
    return folder


def test_zip_is_the_same_whenever_and_whoever(folder, tmp_path):
    first = storage.put_zip(folder, folder="checkpoints")
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
    (folder / "b.json").chmod(0o600)
    assert storage.put_zip(folder, folder="checkpoints") == first
    assert default_storage.listdir("checkpoints")[1] == [f"{first.sha256}.zip"]
    assert default_storage.size(first.key) == first.size


def test_round_trip(folder, tmp_path):
    stored = storage.put_zip(folder, folder="checkpoints")
    target = tmp_path / "again"
    storage.unpack(stored.key, sha256=stored.sha256, target=target)
    assert (target / "sub" / "a.safetensors").read_bytes() == b"weights" * 1000
    assert (target / "b.json").read_text() == "{}"


def test_half_a_file_is_stored_again(folder, tmp_path):
    """As a copy that was killed would leave it, were it not renamed into place."""
    stored = storage.put_zip(folder, folder="checkpoints")
    with open(default_storage.path(stored.key), "wb") as file:
        file.write(b"half")
    storage.put_zip(folder, folder="checkpoints")
    storage.unpack(stored.key, sha256=stored.sha256, target=tmp_path / "again")


def test_damage_is_noticed(folder, tmp_path):
    stored = storage.put_zip(folder, folder="checkpoints")
    with open(default_storage.path(stored.key), "r+b") as file:
        file.seek(50)
        file.write(b"damage")
    with pytest.raises(storage.StorageError, match="was damaged"):
        storage.unpack(stored.key, sha256=stored.sha256, target=tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_missing_file(tmp_path):
    with pytest.raises(storage.StorageError, match="is not in the storage"):
        storage.unpack("checkpoints/none.zip", sha256="0", target=tmp_path / "again")


def test_link_is_not_stored(folder):
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(storage.StorageError, match="is a link"):
        storage.put_zip(folder, folder="checkpoints")


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "a/../../outside.txt", "..\\outside.txt"])
def test_names_that_lead_out(name, tmp_path):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), "evil")
    with pytest.raises(storage.StorageError, match="leads out"):
        storage.extract_zip(path, tmp_path / "target")
    assert not (tmp_path / "outside.txt").exists()


def test_link_in_a_zip(tmp_path):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc")
    with pytest.raises(storage.StorageError, match="is a link"):
        storage.extract_zip(path, tmp_path / "target")


def test_no_zip(tmp_path):
    (tmp_path / "no.zip").write_bytes(io.BytesIO(b"nothing").getvalue())
    with pytest.raises(storage.StorageError, match="not a zip"):
        storage.extract_zip(tmp_path / "no.zip", tmp_path / "target")


def test_storage_that_is_no_folder(folder, tmp_path, settings):
    """As with S3: files come through the storage's own interface."""
    settings.STORAGES = {
        **settings.STORAGES,
        "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    }
    stored = storage.put_zip(folder, folder="checkpoints")
    assert storage.put_zip(folder, folder="checkpoints") == stored
    storage.unpack(stored.key, sha256=stored.sha256, target=tmp_path / "again")
    assert (tmp_path / "again" / "b.json").read_text() == "{}"
    storage.delete(stored.key)
    with pytest.raises(storage.StorageError, match="is not in the storage"):
        storage.unpack(stored.key, sha256=stored.sha256, target=tmp_path / "once more")
