"""Logs as JSON: what a line holds, and the ids of request, task and run."""

import json
import logging
from types import SimpleNamespace

import pytest
from celery import shared_task

from annotation.log_context import current_ids, working_on
from tests.webapp.test_security import settings_with
from webapp import logs

logger = logging.getLogger("annotation.services.jobs")


@pytest.fixture
def lines(caplog):
    """What the site's own formatter makes of each record."""
    caplog.set_level(logging.INFO, logger="webapp.access")
    caplog.handler.setFormatter(logs.Json())
    caplog.handler.addFilter(ids := logs.Ids())
    yield lambda: [json.loads(line) for line in caplog.text.splitlines() if line.startswith("{")]
    caplog.handler.removeFilter(ids)


def test_a_line(lines):
    with working_on(request_id="abc"), working_on(run_id=7):
        logger.warning("job %s waits", 3, extra={"project": 5})
    logger.warning("nothing")
    first, second = lines()
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "WARNING", "logger": "annotation.services.jobs", "message": "job 3 waits",
        "project": 5, "request_id": "abc", "run_id": "7",
    }  # fmt: skip
    assert "request_id" not in second


def test_a_traceback_is_one_line(lines):
    try:
        raise ValueError("no\nsuch thing")
    except ValueError:
        logger.exception("failed")
    (line,) = lines()
    assert "ValueError: no\nsuch thing" in line["exc_info"]


@pytest.mark.django_db
def test_a_request(client, lines):
    """The answer names the id; the route stands in place of the address, which may hold a secret."""
    answer = client.get("/invitations/a-secret/", headers={"X-Request-ID": "of-the-proxy:1"})
    assert answer["X-Request-ID"] == "of-the-proxy:1"
    (line,) = (line for line in lines() if line["logger"] == "webapp.access")
    assert (line["request_id"], line["method"], line["status"]) == (
        "of-the-proxy:1",
        "GET",
        answer.status_code,
    )
    assert line["route"] == "invitations/<str:secret>/"
    assert line["milliseconds"] > 0
    assert "a-secret" not in json.dumps(line)
    assert current_ids() == {}


def test_an_id_that_is_none_is_replaced(client, lines):
    for given in ("", "x" * 65, "two words", "line\u2028break", '{"a": 1}'):
        answer = client.get("/healthz", headers={"X-Request-ID": given})
        assert len(answer["X-Request-ID"]) == 32
    assert client.get("/healthz")["X-Request-ID"] != client.get("/healthz")["X-Request-ID"]


@shared_task(name="tests.say_something", ignore_result=True)
def say_something() -> None:
    logger.warning("something")


def test_a_task(lines):
    done = say_something.apply()
    line = lines()[0]
    assert (line["task"], line["task_id"]) == ("tests.say_something", done.id)
    assert current_ids() == {}


def test_a_run(lines, monkeypatch):
    """What is logged about a run carries its id; also from the thread of its heartbeat."""
    from training.services import executing
    from training.services.pulse import Pulse

    run = SimpleNamespace(pk=12, method="dpo", attempt=1)
    monkeypatch.setattr(executing, "_execute", lambda run: logger.warning("at work"))
    executing.execute(run)
    pulse = Pulse(run, on_given_up=lambda: None)
    monkeypatch.setattr(pulse, "_beat_until_over", lambda: logger.warning("a beat"))
    with pulse:
        pass
    assert [(line["message"], line["run_id"]) for line in lines()] == [("at work", "12"), ("a beat", "12")]


def test_the_environment_chooses(tmp_path):
    chosen = "s.LOGGING['handlers']['console']['formatter']"
    assert json.loads(settings_with(chosen, tmp_path).stdout) == "line"
    assert json.loads(settings_with(chosen, tmp_path, LOG_FORMAT="json").stdout) == "json"
    assert "LOG_FORMAT is 'xml'" in settings_with(chosen, tmp_path, LOG_FORMAT="xml").stderr
