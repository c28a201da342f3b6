"""Imports as jobs: kills, doubled messages, a silent broker, flat memory."""

import json
import tracemalloc
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.files.base import File
from django.core.files.storage import default_storage
from django.utils import timezone

from annotation import services
from annotation.models import Comparison, ImportJob, User
from annotation.services import imports
from tests.annotation.files import GOOD, image_row, jsonl, png, run, start, zipped

pytestmark = pytest.mark.django_db


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
    monkeypatch.setattr(imports, "_commit", lambda job, *rest: commit(job, *rest) and job.line < 4)
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

    def other_first(slow, *rest):
        monkeypatch.setattr(imports, "_commit", commit)
        services.run_import(job.pk)
        return commit(slow, *rest)

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
