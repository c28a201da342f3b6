"""A project with judgements, a base model, and a trainer that only pretends."""

import sys
from datetime import timedelta
from pathlib import Path

import pytest
from django.test import Client

from tests.annotation.conftest import api_client
from tests.annotation.factories import make_user
from tests.training import factories
from training.models import Checkpoint
from training.services import executing, pulse


@pytest.fixture(autouse=True)
def own_folders(settings, tmp_path):
    """Each test has its own work directory and storage."""
    settings.WORK_DIR = tmp_path / "work"
    settings.STORAGES = {
        **settings.STORAGES,
        "default": {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": str(tmp_path / "storage")},
        },
    }


@pytest.fixture(autouse=True)
def no_pause_between_attempts(settings):
    settings.RUN_RETRY_PAUSE = timedelta(0)


@pytest.fixture(autouse=True)
def no_stop_request():
    """No test inherits another one's request to end the worker."""
    executing._stop_asked.clear()
    yield
    executing._stop_asked.clear()


@pytest.fixture
def manager(db):
    return make_user("manager", username="mona")


@pytest.fixture
def project(manager):
    return factories.judged_project(by=manager)


@pytest.fixture
def base(manager, tmp_path):
    return factories.make_base(tmp_path / "models" / "tiny", by=manager)


@pytest.fixture
def run(project, base):
    """Queued, with frozen data."""
    return factories.queued_run(project, base)


@pytest.fixture
def as_manager(manager):
    return api_client(manager)


@pytest.fixture
def fake_trainer(monkeypatch):
    """Runs are done by fake_trainer.py. Returns a function that chooses how it behaves."""
    script = Path(__file__).with_name("fake_trainer.py")
    monkeypatch.setattr(executing.Trainer, "command", lambda self: [sys.executable, str(script), "."])
    monkeypatch.setattr(executing, "TICK", 0.05)
    monkeypatch.setattr(pulse, "BEAT_EVERY", 0.1)

    def behave(mode: str = "", *, steps: int = 12, seconds: float = 0.02) -> None:
        monkeypatch.setenv("FAKE_MODE", mode)
        monkeypatch.setenv("FAKE_STEPS", str(steps))
        monkeypatch.setenv("FAKE_SECONDS", str(seconds))

    behave()
    return behave


def client_of(user) -> Client:
    """A browser that is signed in."""
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def as_mona(manager) -> Client:
    return client_of(manager)


@pytest.fixture
def done(project, base) -> Checkpoint:
    run = factories.queued_run(project, base)
    factories.log_metrics(run)
    return factories.finish(run, **{"eval/rewards/accuracy": 0.74})
