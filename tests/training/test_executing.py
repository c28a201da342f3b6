"""Attempts at runs, with a trainer that keeps the contract or breaks it."""

import json
import os
import signal
import subprocess
import threading
import time
import zipfile
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.core.files.storage import default_storage
from django.db import OperationalError, connection

from tests.training.fake_trainer import final_weights
from training import services, storage, tasks
from training.models import Checkpoint, Metric, ResumePoint, Run
from training.services import executing, queue
from training.services.recording import Recorder
from training.services.workspace import Workspace
from training.tuning.warm_start import Forked, Warm

pytestmark = pytest.mark.django_db(transaction=True)


def claim() -> Run:
    run = services.claim_next(device_kind="cpu", worker="test")
    assert run is not None
    return run


def work() -> None:
    """What a worker does, until nothing is queued."""
    while run := services.claim_next(device_kind="cpu", worker="test"):
        services.execute(run)


def weights_of(run: Run) -> str:
    checkpoint = Checkpoint.objects.get(run=run)
    with storage.local_copy(checkpoint.storage_key) as path, zipfile.ZipFile(path) as result:
        return result.read("weights.txt").decode()


@contextmanager
def meanwhile(function):
    """Run a function in a thread with its own database connection; its error is the test's."""
    errors = []

    def body():
        try:
            function()
        except Exception as error:  # noqa: BLE001
            errors.append(error)
        finally:
            connection.close()

    thread = threading.Thread(target=body)
    thread.start()
    yield
    thread.join()
    if errors:
        raise errors[0]


def wait_until(condition, *, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_done(run, fake_trainer):
    work()
    run.refresh_from_db()
    assert (run.status, run.attempt, run.step, run.total_steps) == ("done", 1, 12, 12)
    assert weights_of(run) == final_weights(12)
    rows = services.metrics_of(run)
    assert [row["step"] for row in rows] == [*range(1, 13), 12]
    assert rows[-1] == {"step": 12, "time": pytest.approx(1.2), "eval/accuracy": 0.5}
    assert run.checkpoint.metadata["metrics"] == {"eval/accuracy": 0.5}
    assert run.started_at <= run.heartbeat_at <= run.finished_at


def test_nothing_is_left_on_the_worker_and_no_resume_points_in_the_storage(run, fake_trainer, settings):
    work()
    assert list((settings.WORK_DIR / "runs").iterdir()) == []
    assert not ResumePoint.objects.exists()
    assert default_storage.listdir(f"runs/{run.pk}")[1] == []


def test_samples_are_in_the_storage(run, fake_trainer):
    work()
    run.refresh_from_db()
    (sample,) = run.samples
    assert sample["when"] == "before"
    assert services.open_sample_image(run, sample["image"]).read() == b"a picture"


def test_trainer_killed_once(run, fake_trainer):
    fake_trainer("dies")
    work()
    run.refresh_from_db()
    assert (run.status, run.attempt, run.lost_attempts, run.error) == ("done", 2, 1, "")
    assert weights_of(run) == final_weights(12)
    assert Metric.objects.filter(run=run, kind="train").count() == 12


def test_trainer_killed_always(run, fake_trainer):
    fake_trainer("always-dies")
    work()
    run.refresh_from_db()
    assert (run.status, run.attempt) == ("failed", 3)
    assert run.error.startswith("The trainer was killed (SIGKILL)")
    assert "attempt 3 of 3" in run.error


def test_retry_goes_on_from_the_newest_checkpoint(run, fake_trainer, settings, monkeypatch):
    fake_trainer("always-dies")
    work()
    settings.WORK_DIR = settings.WORK_DIR.with_name("another machine")
    fake_trainer()
    begin, steps = Recorder.begin, []
    monkeypatch.setattr(Recorder, "begin", lambda self, step: (steps.append(step), begin(self, step=step)))
    services.retry_run(run=run)
    work()
    run.refresh_from_db()
    assert steps == [4]
    assert (run.status, weights_of(run)) == ("done", final_weights(12))
    assert [row["step"] for row in services.metrics_of(run)] == [*range(1, 13), 12]
    assert len(run.samples) == 1


def test_bad_input(run, fake_trainer):
    fake_trainer("bad-input")
    work()
    run.refresh_from_db()
    assert (run.status, run.attempt) == ("failed", 1)
    assert run.error == "data/train.jsonl, line 1, prompt: is odd"


def test_unexpected_error(run, fake_trainer):
    fake_trainer("breaks")
    work()
    run.refresh_from_db()
    assert (run.status, run.error) == ("failed", "ZeroDivisionError: division by zero")


def test_done_without_a_result(run, fake_trainer):
    fake_trainer("no-result")
    work()
    run.refresh_from_db()
    assert (run.status, run.error) == ("failed", "The trainer said that it was done but left no result.")


def test_what_postgres_cannot_store(run, fake_trainer):
    fake_trainer("nan")
    work()
    run.refresh_from_db()
    assert run.status == "done"
    assert run.samples[-1]["text"] == "a�b?"
    row = services.metrics_of(run)[1]
    assert (row["step"], row["loss"], row["rewards/margin"]) == (2, 0.5, None)


def test_cancel_running(run, fake_trainer):
    fake_trainer(steps=1000)
    with meanwhile(work):
        wait_until(lambda: Run.objects.get(pk=run.pk).step > 2)
        services.cancel_run(run=run)
    run.refresh_from_db()
    assert run.status == "cancelled"
    assert ResumePoint.objects.filter(run=run).latest("step").step == run.step


def test_cancelled_run_is_resumed_by_retry(run, fake_trainer):
    test_cancel_running(run, fake_trainer)
    step = run.step
    fake_trainer(steps=step + 20)
    services.retry_run(run=run)
    work()
    run.refresh_from_db()
    assert (run.status, weights_of(run)) == ("done", final_weights(step + 20))


def test_deaf_trainer_is_cancelled_by_force(run, fake_trainer, monkeypatch):
    monkeypatch.setattr(executing, "CANCEL_PATIENCE", 0.3)
    monkeypatch.setattr(executing, "TERM_PATIENCE", 0.3)
    fake_trainer("deaf", steps=1000)
    with meanwhile(work):
        wait_until(lambda: Run.objects.get(pk=run.pk).step > 2)
        services.cancel_run(run=run)
    run.refresh_from_db()
    assert run.status == "cancelled"


def test_worker_that_is_stopped_gives_the_run_back(run, fake_trainer):
    fake_trainer(steps=200)
    with meanwhile(lambda: services.execute(claim())):
        wait_until(lambda: Run.objects.get(pk=run.pk).step > 2)
        services.ask_to_stop()
    run.refresh_from_db()
    assert (run.status, run.lost_attempts) == ("queued", 0)
    executing._stop_asked.clear()
    work()
    run.refresh_from_db()
    assert (run.status, run.attempt, weights_of(run)) == ("done", 2, final_weights(200))


def test_stalled_trainer_is_given_up(run, fake_trainer, settings, monkeypatch):
    monkeypatch.setattr(queue, "_database_start", lambda: queue.database_now() - timedelta(days=1))
    fake_trainer("stalls")
    with meanwhile(lambda: services.execute(claim())):
        wait_until(lambda: Run.objects.get(pk=run.pk).step == 5)
        pid = child_of(run)
        settings.RUN_STALL_AFTER = timedelta(milliseconds=60)
        wait_until(lambda: services.requeue_lost_runs(now=services.database_now()) == 1)
    run.refresh_from_db()
    assert (run.status, run.lost_attempts) == ("queued", 1)
    assert "no progress" in run.error
    assert not alive(pid)


def test_given_up_attempt_cannot_write(run, fake_trainer):
    old = claim()
    Run.objects.filter(pk=run.pk).update(status="queued")
    new = claim()
    assert new.attempt == old.attempt + 1
    services.execute(old)
    run.refresh_from_db()
    assert (run.status, run.attempt, run.step) == ("running", new.attempt, 0)
    assert not Metric.objects.exists()
    assert not Checkpoint.objects.exists()


def test_running_attempt_notices_that_it_was_given_up(run, fake_trainer):
    fake_trainer(steps=10_000)
    with meanwhile(lambda: services.execute(claim())):
        wait_until(lambda: Run.objects.get(pk=run.pk).step > 2)
        pid = child_of(run)
        Run.objects.filter(pk=run.pk).update(status="queued", step=0)
    run.refresh_from_db()
    assert (run.status, run.step) == ("queued", 0)
    assert not alive(pid)


def test_left_over_trainer_is_killed_before_the_next_attempt(run, fake_trainer):
    """As when a worker was killed and its trainer was too young to have asked to die with it."""
    fake_trainer("deaf", steps=10_000)
    first = Workspace(claim())
    first.lay_out()
    left_over = executing.Trainer(first)
    left_over.start()
    wait_until(lambda: first.dir.metrics_file.exists() and first.dir.metrics_file.stat().st_size)
    Run.objects.filter(pk=run.pk).update(status="queued")
    fake_trainer()
    work()
    assert left_over.has_ended(within=0)
    assert left_over.returncode == -signal.SIGKILL
    run.refresh_from_db()
    assert (run.status, weights_of(run)) == ("done", final_weights(12))


def test_directory_of_another_run_is_not_used(run, fake_trainer):
    """A run number comes back when a database is made anew."""
    stranger = Workspace(claim())
    stranger.lay_out()
    (stranger.path / "checkpoint-000011").mkdir()
    content = json.dumps({"weights": "of another run", "step": 11})
    (stranger.path / "checkpoint-000011" / "trainer.json").write_text(content)
    stranger.marker.write_text("{}")
    Run.objects.filter(pk=run.pk).update(status="queued")
    work()
    assert weights_of(run) == final_weights(12)


def test_damaged_data_is_laid_out_again(run, fake_trainer):
    workspace = Workspace(claim())
    workspace.lay_out()
    (workspace.path / "data" / "train.jsonl").write_text("damaged")
    workspace.lay_out()
    assert (workspace.path / "data" / "train.jsonl").read_text() != "damaged"


def test_lost_snapshot_fails_the_run(run, fake_trainer):
    storage.delete(run.snapshot.storage_key)
    work()
    run.refresh_from_db()
    assert run.status == "failed"
    assert "is not in the storage" in run.error


def child_of(run: Run) -> int:
    return json.loads(Workspace(run).marker.read_text())["child"]["pid"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def failing(monkeypatch, owner, name, error, *, times):
    """The first `times` calls of a function raise."""
    real, left = getattr(owner, name), [error] * times

    def call(*args, **values):
        if left:
            raise left.pop()
        return real(*args, **values)

    monkeypatch.setattr(owner, name, call)
    yield
    assert not left, "it was not called often enough"


def test_database_that_is_away_for_a_while(run, fake_trainer, monkeypatch):
    error = OperationalError("server closed the connection unexpectedly")
    fake_trainer(seconds=0.1)
    with failing(monkeypatch, Recorder, "record", error, times=3):
        work()
    run.refresh_from_db()
    assert (run.status, run.attempt) == ("done", 1)
    assert [row["step"] for row in services.metrics_of(run)] == [*range(1, 13), 12]


def test_rows_that_the_database_forgot_are_written_again(run, fake_trainer, monkeypatch):
    """A server that fell over to a copy, or did not flush, loses what it had confirmed."""
    record, errors = Recorder.record, [OperationalError("terminating connection")]

    def forgetful(self, news):
        if errors and any(row["step"] > 5 for row in news.metrics):
            Metric.objects.all().delete()
            raise errors.pop()
        record(self, news)

    monkeypatch.setattr(Recorder, "record", forgetful)
    fake_trainer(seconds=0.1)
    work()
    assert not errors
    assert [row["step"] for row in services.metrics_of(run)] == [*range(1, 13), 12]


def test_storage_that_is_away_for_a_while(run, fake_trainer, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with failing(monkeypatch, storage, "put_zip", OSError("no route to host"), times=3):
        work()
    run.refresh_from_db()
    assert (run.status, weights_of(run)) == ("done", final_weights(12))


def test_storage_that_stays_away(run, fake_trainer, monkeypatch):
    def put_zip(source, *, folder):
        raise OSError("no route to host")

    with monkeypatch.context() as away:
        away.setattr(time, "sleep", lambda seconds: None)
        away.setattr(storage, "put_zip", put_zip)
        services.execute(claim())
    run.refresh_from_db()
    assert (run.status, run.lost_attempts) == ("queued", 1)
    assert run.error.endswith("could not be stored: no route to host.")
    work()
    run.refresh_from_db()
    assert (run.status, run.error) == ("done", "")


def test_what_workers_start(monkeypatch):
    """Those for runs that do them in their own process."""
    kinds = []
    monkeypatch.setattr(services, "warm_up", lambda *, device_kind: kinds.append(device_kind))
    for module in ("celery.concurrency.solo", "celery.concurrency.prefork"):
        for name in ("light", "runs-cuda"):
            queues = SimpleNamespace(consume_from={name: None})
            app = SimpleNamespace(amqp=SimpleNamespace(queues=queues))
            tasks._warm_up(SimpleNamespace(app=app, pool=SimpleNamespace(__module__=module)))
    assert kinds == ["cuda"]


def test_trainers_start_from_a_warm_process(tmp_path, monkeypatch):
    """And as before where it has gone; then another one is made."""
    made, noted, environment = [], [], executing.trainer_environment("cpu")
    warm = Warm(environment, modules=["json"])
    monkeypatch.setattr(executing, "_warm", [warm])
    monkeypatch.setattr(executing, "trainer_environment", lambda kind: environment)
    monkeypatch.setattr(executing, "warm_up", lambda *, device_kind: made.append(device_kind))
    monkeypatch.setattr(executing.Trainer, "command", lambda self: ["true"])
    (tmp_path / "result").mkdir()
    (tmp_path / "run.json").write_text("{}")
    run_dir = SimpleNamespace(cancel_file=tmp_path / "cancel")
    workspace = SimpleNamespace(path=tmp_path, dir=run_dir, run=SimpleNamespace(device_kind="cpu"))
    workspace.remember_child = noted.append
    trainer = executing.Trainer(workspace)
    try:
        wait_until(lambda: warm.serves(environment))
        trainer.start()
        assert isinstance(trainer._child, Forked)
        assert noted == [trainer._child.pid]
        wait_until(lambda: trainer.has_ended(within=1))
        assert trainer.returncode == 0
        assert "finished before" in (tmp_path / executing.OUTPUT).read_text()
    finally:
        warm.close()
    assert made == []
    trainer.start()
    assert isinstance(trainer._child, subprocess.Popen)
    wait_until(lambda: trainer.has_ended(within=1))
    assert trainer.returncode == 0
    assert made == ["cpu"]
