"""A whole site that is broken while people judge and runs train: `benchmarks.faults`."""

import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings

from webapp import celery


def run_faults(*options: str) -> dict[str, Any]:
    """What it counted. Its own exit code is 1 where it found a problem."""
    command = [sys.executable, "-m", "benchmarks.faults", *options]
    done = subprocess.run(command, cwd=settings.BASE_DIR, env=os.environ, capture_output=True, text=True)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (found["problems"], done.returncode) == ([], 0), done.stderr
    return found


def test_each_fault_once() -> None:
    """Nothing accepted is lost or doubled, and every run is finished once with the right weights."""
    found = run_faults("--pretend")
    assert set(found["faults"]) == {
        "SIGKILL of Postgres",
        "SIGKILL of a trainer",
        "SIGKILL of a web process",
        "SIGKILL of run worker 0",
        "SIGKILL of light worker 0",
        "SIGKILL of light worker 1",
        "SIGKILL of the scheduler",
        "SIGKILL of web",
        "a run worker hangs",
        "every clock is set an hour back",
        "every clock is set an hour forward",
        "the broker loses every message",
    }
    assert found["kills"] >= 7  # a trainer may have ended before its turn
    assert found["messages_lost"] >= 10
    assert found["accepted"] == found["stored"] >= 45
    assert found["equal"] == found["runs"] >= 5


@pytest.mark.slow
def test_at_random_moments() -> None:
    found = run_faults("--minutes", "1.5")
    assert found["kills"] >= 1
    assert found["accepted"] == found["stored"] >= 100
    assert found["equal"] >= 1
    assert found["equal"] + sum(found["failed"].values()) == found["runs"]


def test_the_scheduler_goes_by_no_clock_that_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """31 s after the last time a task of every 30 s is due, whatever the wall's clock says by then."""
    entry = celery.app.conf.beat_schedule["reopen-expired-leases"]["schedule"]
    last = entry.now()
    monkeypatch.setattr(celery.app, "now", lambda: last - timedelta(hours=1))
    monkeypatch.setattr(celery, "_BEGAN", celery._BEGAN - 31)
    assert entry.is_due(last).is_due
    monkeypatch.setattr(celery, "_BEGAN", celery._BEGAN + 30)
    assert not entry.is_due(last).is_due
    assert all(
        each["schedule"].nowfun is celery.steady_now for each in celery.app.conf.beat_schedule.values()
    )
