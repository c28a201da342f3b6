"""Zips and pictures from strangers."""

import os
import stat
import zipfile

import pytest
from django.core.files.storage import default_storage

from annotation.models import Candidate, Comparison, Media
from tests.annotation.files import GOOD, image_row, jsonl, png, rejected, run, zipped
from tests.annotation.test_images import huge_png

pytestmark = pytest.mark.django_db


def test_images(image_project):
    members = {
        "data/rows.jsonl": jsonl(image_row("a.png", "b.png")),
        "data/media/a.png": png(),
        "data/b.png": png(colour="blue"),
    }
    job = run(image_project, zipped(members))
    assert (job.status, job.accepted) == ("done", 1)
    media = Media.objects.get(pk=Candidate.objects.get(index=0).image_id)
    assert (media.width, media.height) == (8, 6)
    assert media.storage_key.endswith(f"{media.sha256}.png")
    assert default_storage.size(media.storage_key) == media.size


def test_equal_pictures_are_stored_once(image_project):
    a, again = png(compress_level=1), png(compress_level=9)
    members = {"x.jsonl": jsonl(image_row("a.png", "b.png"), image_row("again.png", "b.png"))}
    members |= {"a.png": a, "again.png": again, "b.png": png(colour="blue")}
    job = run(image_project, zipped(members))
    assert (job.accepted, job.duplicates, Media.objects.count()) == (2, 1, 2)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("missing.png", None, "is not in the zip"),
        ("cut.png", png((64, 64), "green")[:60], "cannot be"),
        ("text.png", b"not a picture", "is not a picture of a known kind"),
        ("script.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a picture of a known kind"),
        ("empty.png", b"", "is not a picture of a known kind"),
        ("huge.png", huge_png(20_000, 10_000), "has too many pixels; 50,000,000 at most"),
    ],
)
def test_bad_pictures(image_project, name, data, reason):
    members = {"x.jsonl": jsonl(image_row("good.png", name), image_row("good.png", "other.png"))}
    members |= {"good.png": png(), "other.png": png(colour="blue")} | (
        {name: data} if data is not None else {}
    )
    job = run(image_project, zipped(members))
    assert (job.status, job.accepted, job.rejected) == ("done", 1, 1)
    ((line, field, found),) = rejected(job)
    assert (line, field) == (1, "candidates.1.image")
    assert reason in found


def test_pictures_need_a_zip(image_project):
    ((_, _, reason),) = rejected(run(image_project, jsonl(image_row("a.png", "b.png"))))
    assert "the upload is no zip" in reason


def link_member():
    info = zipfile.ZipInfo("a.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("member", "content", "words"),
    [
        ("../evil.png", b"x", "leads out of it"),
        ("media/../../evil.png", b"x", "leads out of it"),
        ("/etc/passwd", b"x", "leads out of it"),
        ("C:/evil.png", b"x", "leads out of it"),
        ("..\\evil.png", b"x", "leads out of it"),
        (link_member(), b"/etc/passwd", "is a link"),
        ("bomb.png", b"\0" * 5_000_000, "looks like a bomb"),
        ("second.jsonl", jsonl(GOOD), "found 2"),
    ],
)
def test_zips_that_no_honest_packer_makes(image_project, member, content, words):
    members = {"x.jsonl": jsonl(GOOD)} | {member: content}
    job = run(image_project, zipped(members))
    assert (job.status, job.accepted) == ("failed", 0)
    assert words in job.error
    assert not Comparison.objects.exists()


def test_zips_that_unpack_to_too_much(project, settings):
    settings.IMPORT_MAX_BYTES = 4000
    job = run(project, zipped({"x.jsonl": jsonl(*[{**GOOD, "n": n} for n in range(100)])}))
    assert "unpacks to" in job.error


def test_damaged_zips(project):
    data = zipped({"x.jsonl": jsonl(*[{**GOOD, "noise": os.urandom(40).hex()} for _ in range(200)])})
    cut = run(project, data[: len(data) // 2])
    assert (cut.status, "The zip is damaged" in cut.error) == ("failed", True)
    middle = len(data) // 2
    flipped = run(project, data[:middle] + bytes(32) + data[middle + 32 :])
    assert (flipped.status, "damaged" in flipped.error) == ("failed", True)


def test_encrypted_zips(project):
    data = bytearray(zipped({"x.jsonl": jsonl(GOOD)}))
    central = data.rindex(b"PK\x01\x02")
    data[central + 8] |= 1
    assert "is encrypted" in run(project, bytes(data)).error
