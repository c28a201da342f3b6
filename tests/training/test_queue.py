"""The queue of runs: claims, fences, lost runs, wake-ups."""

import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import F
from django.db.models.functions import Now

from annotation.errors import Conflict
from annotation.models import Webhook, WebhookDelivery
from tests.training import factories
from training import services, tasks
from training.models import Run
from training.services import queue
from training.services.errors import GivenUp
from training.services.recording import News, Recorder
from training.storage import Stored

SOON = timedelta(minutes=5)


@pytest.fixture
def long_running_database(monkeypatch):
    """The test server started moments ago, which excuses every worker."""
    monkeypatch.setattr(queue, "_database_start", lambda: queue.database_now() - timedelta(days=1))


def claim(kind="cpu") -> Run | None:
    return services.claim_next(device_kind=kind, worker="test")


@pytest.mark.django_db
def test_oldest_first_and_only_of_this_device(project, base):
    runs = [factories.queued_run(project, base) for _ in range(3)]
    Run.objects.filter(pk=runs[1].pk).update(device_kind="cuda")
    Run.objects.filter(pk=runs[2].pk).update(queued_at=F("queued_at") - timedelta(hours=1))
    assert [claim(), claim(), claim()] == [runs[2], runs[0], None]
    assert claim("cuda") == runs[1]


@pytest.mark.django_db
def test_claim_starts_an_attempt(run):
    claimed = claim()
    assert (claimed.status, claimed.attempt, claimed.worker) == ("running", 1, "test")
    assert claimed.started_at == claimed.heartbeat_at == claimed.progress_at


@pytest.mark.django_db(transaction=True)
def test_race_of_claims(project, base):
    """Eight workers, twenty runs: each run is claimed once."""
    runs = [factories.queued_run(project, base) for _ in range(20)]
    claimed, start = [], threading.Barrier(8)

    def work():
        start.wait()
        try:
            while run := claim():
                claimed.append(run.pk)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == [run.pk for run in runs]
    assert set(Run.objects.values_list("attempt", flat=True)) == {1}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "write",
    [
        lambda recorder: recorder.check(),
        lambda recorder: recorder.begin(step=0),
        lambda recorder: recorder.record(News(state={"step": 9}, metrics=[{"step": 9, "loss": 1.0}])),
        lambda recorder: recorder.add_resume_point(4, None, keep=set()),
        lambda recorder: recorder.finish(None, {}),
        lambda recorder: recorder.fail("no"),
        lambda recorder: recorder.cancelled(),
        lambda recorder: recorder.give_back("no", counts=True),
    ],
)
def test_every_write_is_fenced(run, write):
    old = claim()
    Run.objects.filter(pk=run.pk).update(status="queued")
    claim()
    before = Run.objects.filter(pk=run.pk).values().get()
    with pytest.raises(GivenUp):
        write(Recorder(old))
    assert Run.objects.filter(pk=run.pk).values().get() == before
    assert not run.metrics.exists()


@pytest.mark.django_db
def test_silent_worker(run, long_running_database):
    claim()
    now = queue.database_now()
    assert services.requeue_lost_runs(now=now) == 0
    assert services.requeue_lost_runs(now=now + timedelta(seconds=61)) == 1
    run.refresh_from_db()
    assert (run.status, run.lost_attempts) == ("queued", 1)
    assert run.error == "The worker test was not heard of for 60 seconds."


@pytest.mark.django_db
def test_standing_trainer(run, long_running_database):
    claim()
    now = queue.database_now() + timedelta(minutes=31)
    Run.objects.update(heartbeat_at=now)
    assert services.requeue_lost_runs(now=now) == 1
    run.refresh_from_db()
    assert run.error == "The trainer made no progress for 30 minutes."


@pytest.mark.django_db
def test_a_clock_that_was_set_back(run, long_running_database):
    """The last sign of life lies an hour ahead: the worker has as long as anybody to give another."""
    claim()
    now = queue.database_now()
    Run.objects.update(heartbeat_at=now + timedelta(hours=1), progress_at=now + timedelta(hours=1))
    assert services.requeue_lost_runs(now=now) == 0
    assert services.requeue_lost_runs(now=now + timedelta(seconds=61)) == 1


@pytest.mark.django_db
def test_a_pause_before_the_next_attempt(run, settings):
    """Longer by every attempt that was lost; who tries again by hand does not wait."""
    settings.RUN_RETRY_PAUSE = timedelta(seconds=30)
    for lost, seconds in ((1, 30), (2, 60)):
        Recorder(claim()).give_back("The disk was full.", counts=True)
        assert claim() is None
        run.refresh_from_db()
        assert run.error == f"The disk was full. It is tried again after {seconds} seconds."
        assert timedelta(seconds=seconds - 5) < run.not_before - queue.database_now()
        Run.objects.update(not_before=F("not_before") - timedelta(seconds=seconds))
        assert run.lost_attempts == lost
    Recorder(claim()).give_back("The worker was stopped.", counts=False)
    assert claim() == run
    Recorder(Run.objects.get()).give_back("The disk was full.", counts=True)
    run.refresh_from_db()
    assert (run.status, run.error.startswith("The disk was full. That was attempt 3")) == ("failed", True)
    services.retry_run(run=run)
    Recorder(claim()).give_back("The disk was full.", counts=True)
    services.cancel_run(run=run)
    services.retry_run(run=run)
    assert claim() == run


@pytest.mark.django_db
def test_three_lost_attempts_fail_the_run(run, long_running_database):
    for _ in range(3):
        assert claim() == run
        services.requeue_lost_runs(now=queue.database_now() + SOON)
    run.refresh_from_db()
    assert (run.status, run.attempt) == ("failed", 3)
    assert "That was attempt 3 of 3" in run.error
    assert run.finished_at is not None


@pytest.mark.django_db
def test_lost_run_that_was_to_be_cancelled_is_cancelled(run, long_running_database):
    claim()
    services.cancel_run(run=run)
    services.requeue_lost_runs(now=queue.database_now() + SOON)
    run.refresh_from_db()
    assert run.status == "cancelled"


@pytest.mark.django_db
def test_nobody_is_late_right_after_the_database_started(run, monkeypatch):
    """Workers could not reach it either; they get as long as anybody to be heard."""
    claim()
    Run.objects.update(heartbeat_at=Now() - timedelta(hours=1))
    now = queue.database_now()
    monkeypatch.setattr(queue, "_database_start", lambda: now - timedelta(seconds=30))
    assert services.requeue_lost_runs(now=now) == 0
    assert services.requeue_lost_runs(now=now + timedelta(seconds=31)) == 1


@pytest.mark.django_db
def test_lost_messages_are_sent_again(project, base, monkeypatch):
    """Both the one that prepares a run and the one that wakes a worker."""
    waiting = factories.queued_run(project, base)
    Run.objects.filter(pk=waiting.pk).update(status="preparing", created_at=Now() - timedelta(minutes=1))
    factories.queued_run(project, base)
    sent = []
    monkeypatch.setattr(tasks.prepare_run, "apply_async", lambda *, kwargs: sent.append(kwargs))
    monkeypatch.setattr(tasks.work_runs, "apply_async", lambda *, kwargs, queue: sent.append(queue))
    tasks.requeue_lost_runs()
    assert sent == [{"run_id": waiting.pk}, "runs-cpu"]


@pytest.mark.django_db
def test_second_wake_up_does_nothing(run, monkeypatch):
    worked = []
    monkeypatch.setattr(services, "execute", worked.append)
    tasks.work_runs(device_kind="cpu")
    tasks.work_runs(device_kind="cpu")
    assert worked == [run]


@pytest.mark.django_db
def test_worker_that_is_to_end_claims_nothing(run):
    services.ask_to_stop()
    tasks.work_runs(device_kind="cpu")
    run.refresh_from_db()
    assert run.status == "queued"


@pytest.mark.django_db
@pytest.mark.parametrize("end", ["finish", "fail", "cancel", "give up"])
def test_the_end_of_a_run_is_told_to_webhooks_once(run, base, end, manager):
    Webhook.objects.create(
        project=run.project,
        url="https://example.org/",
        secret="s",
        events=["run.finished"],
        created_by=manager,
    )
    if end == "cancel":
        services.cancel_run(run=run)
        with pytest.raises(Conflict):
            services.cancel_run(run=run)
    elif end == "give up":
        queue.give_back(run, reason="Lost.", counts=True)
        assert not WebhookDelivery.objects.exists()  # it is queued again
        Run.objects.filter(pk=run.pk).update(lost_attempts=2)
        run.refresh_from_db()
        queue.give_back(run, reason="Lost.", counts=True)
    else:
        recorder = Recorder(claim())
        recorder.fail("Bad.") if end == "fail" else recorder.finish(
            Stored(key="results/a.zip", sha256="a" * 64, size=1), {}
        )
    (told,) = WebhookDelivery.objects.all()
    status = {"finish": "done", "fail": "failed", "cancel": "cancelled", "give up": "failed"}[end]
    assert (told.event, told.payload["data"]["run"], told.payload["data"]["status"]) == (
        "run.finished", run.pk, status,
    )  # fmt: skip
