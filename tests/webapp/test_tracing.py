"""Traces that a collector gets, from processes of their own: what is traced stays so for a process' life."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.db import connection

# A request whose address holds a secret and which asks the database, and a task that it sends.
TRACED = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "webapp.settings"
from django.conf import settings
settings.STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"
import webapp.wsgi
from django.test import Client
from webapp.celery import app
asked = Client(SERVER_NAME="localhost")
print(asked.get("/invitations/a-secret/", {"q": "another"}, headers={"X-Request-ID": "abc-1"}).status_code)
app.loader.import_default_modules()
app.tasks["annotation.tasks.fold_slots"].apply()
if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
    from opentelemetry import trace
    assert trace.get_tracer_provider().force_flush()
"""


@pytest.fixture
def collector():
    """An address and the spans that arrive there: name, what is known of it, its service."""
    proto = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    spans = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in proto.ExportTraceServiceRequest.FromString(body).resource_spans:
                service = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        facts = {pair.key: pair.value.string_value for pair in span.attributes}
                        spans.append((span, facts, service["service.name"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", spans
    server.shutdown()
    thread.join()
    server.server_close()


def traced(code=TRACED, **environ):
    database = connection.settings_dict
    url = f"postgres://{database['USER']}@/{database['NAME']}?host={database['HOST']}"
    environ = os.environ | {"DATABASE_URL": url, "SECRET_KEY": "x" * 40} | environ
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)


@pytest.mark.django_db(transaction=True)
def test_a_request_its_statements_and_a_task(collector):
    address, spans = collector
    done = traced(OTEL_EXPORTER_OTLP_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["404"], done.stderr
    ((request, said),) = ((span, said) for span, said, _ in spans if span.name.startswith("GET "))
    assert request.name == "GET invitations/<str:secret>/"
    assert said["request_id"] == "abc-1"
    assert {service for _, _, service in spans} == {"tiebreak-web"}
    within = [known for span, known, _ in spans if span.parent_span_id == request.span_id]
    assert any(known.get("db.statement", "").startswith("SELECT") for known in within)
    assert all(known["request_id"] == "abc-1" for known in within)
    assert any(span.name == "run/annotation.tasks.fold_slots" for span, _, _ in spans)
    told = b"".join(span.SerializeToString() for span, _, _ in spans)
    assert b"a-secret" not in told
    assert b"another" not in told


def test_without_the_packages_it_says_what_to_do():
    code = "import sys; sys.modules['opentelemetry.instrumentation.django'] = None; import webapp.wsgi"
    done = traced(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert done.returncode == 1
    assert "install the extra `opentelemetry`" in done.stderr


def test_nothing_is_loaded_that_nobody_asked_for():
    code = "import sys, webapp.wsgi, webapp.celery; assert not any('opentelemetry' in m for m in sys.modules)"
    done = traced(code)
    assert done.returncode == 0, done.stderr
