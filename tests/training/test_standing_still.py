"""A process that stands still (SIGSTOP, a machine that is gone) keeps nothing that others wait for."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from django.db import OperationalError, connection, connections, transaction

from annotation.postgres.base import limit_silence
from tests.training import factories
from training.models import Run
from training.services import preparing, queue
from webapp.embedded.postgres import database_url

PATIENCE = 120.0  # seconds
LEASE = timedelta(seconds=2)
STANDS_STILL = """
import os, signal, threading
import django
django.setup()
from training.models import Run
from training.services import preparing, queue
from training.services.errors import GivenUp
from training.services.recording import Recorder, insist

preparing.SILENT_FOR = 1
mine = queue.claim_next(device_kind="cpu", worker="stands still")
claiming, never = threading.Event(), threading.Event()

def in_the_middle():
    claiming.set()
    never.wait()

queue.code_version = in_the_middle
claim = {"device_kind": "cpu", "worker": "stands still"}
threading.Thread(target=queue.claim_next, kwargs=claim, daemon=True).start()
claiming.wait()
tries = []

def record():
    tries.append(1)
    with Recorder(mine).held():
        os.kill(os.getpid(), signal.SIGSTOP)
        Run.objects.filter(pk=mine.pk).update(step=99)

with preparing._alone(7) as is_alone:
    try:
        insist(record, what="a record")
    except GivenUp:
        print("given up after", len(tries), "tries", is_alone)
"""


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.django_db(transaction=True)
def test_others_take_over_what_it_has_locked(
    project, base, data_dir: Path, settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops while it records one run and claims another, and while it prepares a third. All that is free
    a lease later; when it goes on, it finds that the run is not its own any more.
    """
    settings.RUN_STALE_AFTER = LEASE
    monkeypatch.setattr(queue, "_database_start", lambda: queue.database_now() - timedelta(days=1))
    runs = {factories.queued_run(project, base).pk for _ in range(2)}
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "webapp.settings",
        "SECRET_KEY": "only-for-this-test-" * 2,
        "DATABASE_URL": database_url(data_dir, str(connection.settings_dict["NAME"])),
        "RUN_STALE_AFTER": str(round(LEASE.total_seconds())),
    }
    child = subprocess.Popen(
        [sys.executable, "-c", STANDS_STILL],
        cwd=django_settings.BASE_DIR,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    taken: set[int] = set()

    def take() -> bool:
        queue.requeue_lost_runs(now=queue.database_now())
        if run := queue.claim_next(device_kind="cpu", worker="moves"):
            taken.add(run.pk)
        return taken == runs

    def prepare() -> bool:
        with preparing._alone(7) as is_alone:
            return is_alone

    try:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), child.communicate()
        wait_until(take)
        wait_until(prepare)
    finally:
        child.send_signal(signal.SIGCONT)
        out, err = child.communicate(timeout=PATIENCE)
    assert out == "given up after 2 tries True\n", err
    assert set(Run.objects.values_list("worker", flat=True)) == {"moves"}
    assert 99 not in Run.objects.values_list("step", flat=True)


@pytest.mark.django_db(transaction=True)
def test_who_prepares_for_long_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection, which is idle in a transaction, is used again and again."""
    monkeypatch.setattr(preparing, "TALK_EVERY", 0.01)
    idle = """SELECT max(state_change) FROM pg_stat_activity
              WHERE state = 'idle in transaction' AND query = 'SELECT 1' AND datname = current_database()"""

    def last_said() -> object:
        with connection.cursor() as cursor:
            cursor.execute(idle)
            return cursor.fetchone()[0]

    with preparing._alone(7) as is_alone:
        assert is_alone
        wait_until(last_said)
        first = last_said()
        wait_until(lambda: last_said() != first)


@pytest.mark.django_db(transaction=True)
def test_the_limit_holds_for_one_transaction() -> None:
    def limit() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SHOW idle_in_transaction_session_timeout")
            found: str = cursor.fetchone()[0]
            return found

    assert limit() == "10min"
    with transaction.atomic():
        limit_silence(to=timedelta(seconds=90))
        assert limit() == "90s"
        limit_silence(to=None)
        assert limit() == "0"
    assert limit() == "10min"


@pytest.mark.django_db(transaction=True)
def test_a_session_ended_for_its_silence_is_a_lost_connection() -> None:
    """Who tries again after an outage tries again after this."""
    own = connections.create_connection("default")
    try:
        own.set_autocommit(False)
        with own.cursor() as cursor:
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 1")
            cursor.execute("SELECT pg_backend_pid()")
            (pid,) = cursor.fetchone()
        wait_until(lambda: not is_there(pid))
        with pytest.raises(OperationalError, match="idle-in-transaction"), own.cursor() as cursor:
            cursor.execute("SELECT 1")
        assert not own.is_usable()
    finally:
        own.close()


def is_there(pid: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid])
        return bool(cursor.fetchone()[0])
