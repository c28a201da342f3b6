"""What a web process loads, and the headers that every answer carries."""

import subprocess
import sys

import pytest
from django.test import Client

LOAD_EVERYTHING = """
import sys
import django
django.setup()
import webapp.wsgi
from webapp.celery import app
from django.urls import get_resolver

def names(patterns):
    for pattern in patterns:
        yield from names(pattern.url_patterns) if hasattr(pattern, "url_patterns") else [pattern.name]

assert {"healthz", "judge", "run"} <= set(names(get_resolver().url_patterns))
app.loader.import_default_modules()
assert {entry["task"] for entry in app.conf.beat_schedule.values()} <= app.tasks.keys(), app.tasks.keys()
heavy = {"torch", "transformers", "diffusers", "peft", "accelerate", "safetensors"} & sys.modules.keys()
assert not heavy, f"a web process loads {heavy}"
"""


def test_no_web_process_loads_torch() -> None:
    loaded = subprocess.run([sys.executable, "-c", LOAD_EVERYTHING], capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr


SEND = """
import sys, threading
import webapp.wsgi
from webapp.celery import app
from annotation.tasks import run_import

loaded, backend = set(sys.modules), app.backend
found = []
sender = threading.Thread(target=lambda: run_import.delay(job_id=1) and found.append(app.backend))
sender.start()
sender.join()
assert found == [backend], "a thread looks for a place for results again"
late = sorted(name for name in sys.modules.keys() - loaded if name.startswith("celery"))
assert not late, f"the first message loads {late}"
"""


def test_the_first_message_finds_everything_ready() -> None:
    sent = subprocess.run([sys.executable, "-c", SEND], capture_output=True, text=True)
    assert sent.returncode == 0, sent.stderr


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/sign-in/", "/healthz", "/no-such-page/", "/api/v1/projects/"])
def test_headers(client: Client, path: str) -> None:
    response = client.get(path)
    policy = dict(part.strip().partition(" ")[::2] for part in response["Content-Security-Policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "font-src": "'self'",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    assert response["X-Frame-Options"] == "DENY"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Referrer-Policy"] == "same-origin"
    assert response["Cross-Origin-Opener-Policy"] == "same-origin"
