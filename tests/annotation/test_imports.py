"""Files from strangers: what is imported, what is refused with which words, and what a kill leaves behind."""

import io
import json
import os
import stat
import tracemalloc
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.files.base import ContentFile, File
from django.core.files.storage import default_storage
from django.utils import timezone
from PIL import Image

from annotation import services
from annotation.errors import Invalid
from annotation.models import Candidate, Comparison, ImportJob, Judgement, Media, User
from annotation.services import imports
from tests.annotation import factories
from tests.annotation.test_images import huge_png

pytestmark = pytest.mark.django_db
GOOD = {"prompt": "What is 2 + 2?", "responses": ["4", "5"]}


@pytest.fixture
def image_project(manager):
    return factories.make_project(by=manager, modality="image")


def png(size=(8, 6), colour="red", **options):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG", **options)
    return out.getvalue()


def jsonl(*rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()


def zipped(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def start(project, data, format="trl", **values):
    file = ContentFile(data, name="rows.jsonl")
    return services.start_import(project=project, by=project.created_by, file=file, format=format, **values)


def run(project, data, format="trl", **values):
    job = start(project, data, format, **values)
    services.run_import(job.pk)
    job.refresh_from_db()
    return job


def rejected(job):
    return [(row.line, row.field, row.reason) for row in job.rejected_rows.order_by("pk")]


# What the formats mean


def test_unlabelled(project):
    job = run(
        project, jsonl({**GOOD, "topic": "sums"}, {"prompt": "Say hi", "responses": ["hi", "hello", "hey"]})
    )
    assert (job.status, job.accepted, job.rejected) == ("done", 2, 0)
    first, second = Comparison.objects.order_by("rank")
    assert (first.prompt, first.meta, first.needed, first.open_slots) == (
        "What is 2 + 2?",
        {"topic": "sums"},
        1,
        1,
    )
    assert [candidate.text for candidate in second.candidates.order_by("index")] == ["hi", "hello", "hey"]
    assert first.import_job == job


def test_labelled(project):
    services.update_project(project=project, labels_per_comparison=3)
    run(project, jsonl({"prompt": "p", "chosen": "good", "rejected": "bad"}))
    comparison, judgement = Comparison.objects.get(), Judgement.objects.get()
    assert (comparison.needed, comparison.open_slots) == (2, 2)
    assert (judgement.choice, judgement.order, judgement.kind) == (0, [0, 1], "regular")
    assert comparison.candidates.get(index=0).text == "good"
    assert (judgement.annotator.is_active, judgement.annotator.has_usable_password()) == (False, False)


def test_labels_fill_the_only_slot(project):
    run(project, jsonl({"prompt": "p", "chosen": "good", "rejected": "bad"}))
    assert Comparison.objects.get().needed == 0


def test_thumbs_and_prompts_are_not_shown_to_anybody(project, annotator):
    run(project, jsonl({"prompt": "p", "completion": "c", "label": False}, {"prompt": "only a prompt"}))
    assert Judgement.objects.get().answers == {"thumbs": [0]}
    assert services.next_lease(project=project, user=annotator, now=timezone.now()) is None


def test_conversations(project):
    ask = [{"role": "user", "content": "hi"}]
    answers = [[{"role": "assistant", "content": text}] for text in ("hello", "go away")]
    run(
        project,
        jsonl(
            {"prompt": ask, "chosen": answers[0], "rejected": answers[1]},
            {"chosen": ask + answers[0], "rejected": ask + answers[1]},  # the prompt is what they share
        ),
    )
    for comparison in Comparison.objects.all():
        assert comparison.prompt == ask
        assert [candidate.text for candidate in comparison.candidates.order_by("index")] == answers
    assert len(set(Comparison.objects.values_list("prompt_key", flat=True))) == 1


def test_groups(project):
    row = {
        "prompt": "p",
        "candidates": [{"text": "a", "source": "model-1"}, {"text": "b"}, {"text": "c"}],
        "judgements": [
            {
                "annotator": "kim",
                "order": [2, 0, 1],
                "choice": 2,
                "strength": 3,
                "seconds": 4,
                "tags": ["terse"],
            },
            {"annotator": "lee", "ranking": [[0], [2, 1]], "at": "2025-01-02T03:04:05+02:00"},
            {"annotator": "lee", "kind": "judge", "choice": "tie", "thumbs": [1, 0, 1]},
        ],
        "reference": "the answer",
        "meta": {"topic": "x"},
    }
    services.update_project(project=project, labels_per_comparison=3)
    assert run(project, jsonl(row), "groups").accepted == 1
    comparison = Comparison.objects.get()
    assert (comparison.needed, comparison.reference, comparison.meta) == (1, "the answer", {"topic": "x"})
    kim, lee, judge = Judgement.objects.order_by("pk")
    assert (kim.annotator.username, kim.choice, kim.answers) == ("import:kim", 2, {"tags": ["terse"]})
    assert lee.created_at.isoformat() == "2025-01-02T01:04:05+00:00"
    assert (judge.kind, judge.choice, judge.answers) == ("judge", "tie", {"thumbs": [1, 0, 1]})


def test_held_out(project):
    run(project, jsonl(GOOD), held_out=True)
    assert Comparison.objects.get().held_out


# Rows that cannot be imported do not stop those that can


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ("prompt: hi", "", "The line is not JSON"),
        ('{"prompt": "p", "responses": ["a"', "", "The line is not JSON"),
        ('{"prompt": "p", "responses": ["a\x00", "b"]}', "", "The line is not JSON"),
        ('["prompt"]', "", "The line is a list, not an object"),
        ('{"prompt": NaN, "responses": ["a", "b"]}', "", "NaN is not a JSON number"),
        ('{"prompt": "p", "responses": ["a", "b"], "score": 1e999}', "", "1e999 is too large a number"),
        ("[" * 100_000, "", "The line is nested too deeply"),
        ('{"prompt": "p", "responses": ["a\\u0000", "b"]}', "responses.0", "contains a NUL character"),
        (
            '{"prompt": "p", "responses": ["a", "b\\ud800"]}',
            "responses.1",
            "contains half of a surrogate pair",
        ),
        ({"responses": ["a", "b"]}, "prompt", "is missing"),
        ({"prompt": "p", "chosen": "a"}, "rejected", "is missing"),
        ({"prompt": "p", "rejected": "a"}, "chosen", "is missing"),
        ({"prompt": "p", "completion": "a"}, "label", "is missing"),
        ({"prompt": "p", "chosen": "a", "rejected": ""}, "rejected", "is empty"),
        ({"prompt": "p", "chosen": " \n", "rejected": "b"}, "chosen", "is empty"),
        ({"prompt": "", "responses": ["a", "b"]}, "prompt", "is empty"),
        ({"prompt": ""}, "prompt", "is empty"),
        ({"prompt": "p", "responses": ["a", True]}, "responses.1", "is true (a boolean)"),
        ({"prompt": "p", "responses": ["a", None]}, "responses.1", "is null"),
        ({"prompt": "p", "responses": ["a"]}, "responses", "has 1 answers"),
        ({"prompt": "p", "responses": "ab"}, "responses", "is a text"),
        ({"prompt": "p", "responses": ["same", "same"]}, "responses.0 and responses.1", "are all the same"),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "label": True},
            "completion",
            "do not belong into one row",
        ),
        ({"prompt": "p", "completion": "a", "label": 1}, "label", "is 1 (a number)"),
        ({"prompt": [{"role": "user"}], "responses": ["a", "b"]}, "prompt", "message 0 must have"),
        ({"prompt": "p", "responses": [[], "b"]}, "responses.0", "is an empty list"),
        ({"chosen": "a", "rejected": "b"}, "prompt", "is missing"),
    ],
)
def test_bad_rows(project, row, field, reason):
    job = run(project, jsonl(GOOD, row, {**GOOD, "prompt": "another"}))
    assert (job.status, job.accepted, job.rejected) == ("done", 2, 1)
    ((line, found_field, found_reason),) = rejected(job)
    if reason == "do not belong into one row":
        assert reason in found_reason
    else:
        assert (line, found_field) == (2, field)
        assert reason in found_reason


def judged(**judgement):
    return {"prompt": "p", "candidates": [{"text": "a"}, {"text": "b"}], "judgements": [judgement]}


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"prompt": "p", "candidates": []}, "candidates", "at least 1 item"),
        ({"prompt": "p"}, "candidates", "is missing"),
        (
            {"prompt": "p", "candidates": [{"text": "a"}], "model": "x"},
            "model",
            "unknown key; put it into `meta`",
        ),
        ({"prompt": "p", "candidates": [{"txt": "a"}]}, "candidates.0.txt", "unknown key"),
        ({"prompt": "p", "candidates": [{"source": "m"}]}, "candidates.0", "either `text` or `image`"),
        (
            {"prompt": "p", "candidates": [{"image": "a.png"}]},
            "candidates.0.text",
            "this project compares texts",
        ),
        ({"prompt": "p", "candidates": [{"text": "a"}, {"text": "a"}]}, "candidates", "are all the same"),
        (judged(choice=2), "judgements.0.choice", "2 is no candidate"),
        (judged(choice=True), "judgements.0.choice", "valid integer"),
        (judged(choice="left"), "judgements.0.choice", ""),
        (judged(order=[0, 0]), "judgements.0.order", "each of the 2 candidates once"),
        (judged(strength=4), "judgements.0.strength", "less than or equal to 3"),
        (judged(ranking=[[0], [0]]), "judgements.0.ranking", "at most once"),
        (judged(thumbs=[1]), "judgements.0.thumbs", "1 entries for 2 candidates"),
        (judged(at="2999-01-01"), "judgements.0.at", "lies in the future"),
        (judged(at="yesterday"), "judgements.0.at", "Invalid isoformat"),
        (judged(kind="guess"), "judgements.0.kind", "regular"),
        (
            judged(marks=[{"candidate": 2, "type": "span"}]),
            "judgements.0.marks.0.candidate",
            "2 is no candidate",
        ),
    ],
)
def test_bad_groups(project, row, field, reason):
    job = run(project, jsonl(row), "groups")
    ((line, found_field, found_reason),) = rejected(job)
    assert (line, found_field) == (1, field)
    assert reason in found_reason
    assert not Comparison.objects.exists()


def test_two_judgements_of_one_annotator(project):
    row = judged(annotator="kim", choice=0)
    row["judgements"] *= 2
    ((_, field, reason),) = rejected(run(project, jsonl(row), "groups"))
    assert (field, "'kim' has a second regular judgement" in reason) == ("judgements.1.annotator", True)


def test_duplicate_rows_are_imported_and_counted(project):
    """Public files repeat a pair for each of its annotators: every row is a comparison of its own."""
    swapped = {**GOOD, "responses": GOOD["responses"][::-1]}
    job = run(project, jsonl(GOOD, GOOD, swapped, GOOD))
    assert (job.accepted, job.duplicates, Comparison.objects.count()) == (4, 2, 4)


def test_mark_of_utf8_and_windows_lines_and_no_last_newline(project):
    data = b"\xef\xbb\xbf" + jsonl(GOOD).replace(b"\n", b"\r\n") + b"\r\n \n" + json.dumps(GOOD).encode()
    job = run(project, data)
    assert (job.status, job.accepted, job.rejected) == ("done", 2, 0)


def test_utf16_is_named(project):
    job = run(project, jsonl(GOOD).decode().encode("utf-16"))
    assert job.status == "failed"
    assert "The file is UTF-16" in job.error


def test_another_encoding_is_named_by_line(project):
    data = jsonl(GOOD) + '{"prompt": "café", "responses": ["a", "b"]}\n'.encode("latin-1")
    ((line, field, reason),) = rejected(run(project, data))
    assert (line, field) == (2, "")
    assert "Byte 16 of the line is not UTF-8" in reason


def test_very_long_lines(project):
    long_but_fine = {**GOOD, "responses": ["a" * 3_000_000, "b"]}
    too_long = {**GOOD, "responses": ["a" * 9_000_000, "b"]}
    job = run(project, jsonl(long_but_fine, too_long, GOOD))
    assert (job.status, job.accepted) == ("done", 2)
    assert rejected(job) == [(2, "", "The line is longer than 8 MiB.")]


def test_not_even_text(project):
    job = run(project, os.urandom(5000).replace(b"PK", b"") + b"\n" + jsonl(GOOD))
    assert (job.status, job.accepted) == ("done", 1)
    assert job.rejected >= 1


def test_empty_file(project):
    with pytest.raises(Invalid, match="is empty"):
        start(project, b"")


def test_too_large_a_file(project, settings):
    settings.IMPORT_MAX_BYTES = 10
    with pytest.raises(Invalid, match="10 at most"):
        start(project, jsonl(GOOD))


# Zips and pictures


def image_row(*names, **values):
    return {"prompt": "a red circle", "responses": list(names), **values}


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
        ("huge.png", huge_png(20_000, 10_000), "has 20000 × 10000 pixels; 50,000,000 at most"),
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
        ("second.jsonl", jsonl(GOOD), "exactly one .jsonl file; found 2"),
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


# Kills, doubled messages, memory


def test_a_kill_between_chunks_doubles_nothing(project, monkeypatch):
    monkeypatch.setattr(imports, "CHUNK_LINES", 10)
    rows = [{**GOOD, "prompt": f"q{n}"} for n in range(35)]
    rows[17] = "nonsense"
    job = start(project, jsonl(*rows))
    commit, calls = imports._commit, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return commit(*arguments)

    monkeypatch.setattr(imports, "_commit", killed)
    with pytest.raises(KeyboardInterrupt):
        services.run_import(job.pk)
    job.refresh_from_db()
    assert (job.status, job.accepted, job.rejected, job.line) == ("running", 19, 1, 20)
    monkeypatch.setattr(imports, "_commit", commit)
    services.run_import(job.pk)
    job.refresh_from_db()
    assert (job.status, job.accepted, job.rejected, job.line) == ("done", 34, 1, 35)
    assert sorted(Comparison.objects.values_list("prompt", flat=True)) == sorted(
        row["prompt"] for row in rows if isinstance(row, dict)
    )


def test_a_kill_in_the_middle_of_a_zip(image_project, monkeypatch):
    monkeypatch.setattr(imports, "CHUNK_LINES", 2)
    members = {f"{n}.png": png(colour=(n, 0, 0)) for n in range(6)}
    members["x.jsonl"] = jsonl(*[image_row(f"{n}.png", f"{n + 1}.png") for n in range(5)])
    job = start(image_project, zipped(members))
    commit = imports._commit
    monkeypatch.setattr(imports, "_commit", lambda job, chunk: commit(job, chunk) and job.line < 4)
    services.run_import(job.pk)
    monkeypatch.setattr(imports, "_commit", commit)
    services.run_import(job.pk)
    job.refresh_from_db()
    assert (job.status, job.accepted, Comparison.objects.count()) == ("done", 5, 5)


def test_a_doubled_message(project):
    job = run(project, jsonl(GOOD))
    services.run_import(job.pk)
    assert Comparison.objects.count() == 1


def test_a_second_worker_stops(project, monkeypatch):
    """Both have read the same chunk; the one that commits later finds the position moved."""
    job = start(project, jsonl(GOOD))
    commit = imports._commit

    def other_first(slow, chunk):
        monkeypatch.setattr(imports, "_commit", commit)
        services.run_import(job.pk)
        return commit(slow, chunk)

    monkeypatch.setattr(imports, "_commit", other_first)
    services.run_import(job.pk)
    job.refresh_from_db()
    assert (job.status, job.accepted, Comparison.objects.count()) == ("done", 1, 1)


def test_an_import_that_never_gets_further_is_given_up(project, monkeypatch):
    job = start(project, jsonl(GOOD))

    def die(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(imports, "_commit", die)
    for _ in range(imports.MAX_ATTEMPTS):
        with pytest.raises(RuntimeError):
            services.run_import(job.pk)
    services.run_import(job.pk)
    job.refresh_from_db()
    assert (job.status, "started 5 times" in job.error) == ("failed", True)


def test_lost_jobs_are_sent_again(project, monkeypatch):
    job = start(project, jsonl(GOOD))
    sent = []
    monkeypatch.setattr("annotation.tasks.run_import.delay", lambda job_id: sent.append(job_id))
    later = timezone.now() + timedelta(seconds=90)
    assert services.resume_lost_jobs(now=timezone.now(), after=timedelta(seconds=60)) == 0
    assert services.resume_lost_jobs(now=later, after=timedelta(seconds=60)) == 1
    assert services.resume_lost_jobs(now=later, after=timedelta(seconds=60)) == 0
    assert sent == [job.pk]


def test_a_silent_broker_loses_nothing(project, monkeypatch, django_capture_on_commit_callbacks, caplog):
    from kombu.exceptions import OperationalError

    def refuse(**arguments):
        raise OperationalError("no broker")

    monkeypatch.setattr("annotation.tasks.run_import.delay", refuse)
    with django_capture_on_commit_callbacks(execute=True):
        job = start(project, jsonl(GOOD))
    assert ImportJob.objects.get(pk=job.pk).status == "queued"
    assert "no broker" in caplog.text


def test_the_upload_is_deleted_when_it_is_done(project, django_capture_on_commit_callbacks):
    job = start(project, jsonl(GOOD))
    assert default_storage.exists(job.storage_key)
    with django_capture_on_commit_callbacks(execute=True):
        services.run_import(job.pk)
    assert not default_storage.exists(job.storage_key)


def test_import_users_are_shared_and_cannot_sign_in(project, client):
    run(project, jsonl({"prompt": "p", "chosen": "a", "rejected": "b"}))
    run(project, jsonl({"prompt": "q", "chosen": "a", "rejected": "b"}))
    assert User.objects.filter(username="import:import", is_active=False).count() == 1


@pytest.mark.slow
def test_memory_stays_flat_on_100_megabytes(project, tmp_path: Path):
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for n in range(25_000):
            file.write(json.dumps({"prompt": f"q{n}", "responses": ["x" * 2000, "y" * 2000]}) + "\n")
    assert path.stat().st_size > 100_000_000
    with path.open("rb") as file:
        job = services.start_import(
            project=project, by=project.created_by, file=File(file, "l"), format="trl"
        )
    tracemalloc.start()
    services.run_import(job.pk)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    job.refresh_from_db()
    assert (job.status, job.accepted) == ("done", 25_000)
    assert peak < 60_000_000
