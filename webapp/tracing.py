"""Traces of requests, tasks and statements for an OpenTelemetry collector, where the environment names one.

Without `OTEL_EXPORTER_OTLP_ENDPOINT` nothing is imported. The SDK reads its other variables by itself.
"""

import os
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured

from annotation.log_context import current_ids

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from opentelemetry.trace import Span

# May hold what only the person who asks should know: links to sign in, invitations, what was searched for.
ADDRESSES = ("http.url", "http.target", "url.full", "url.path", "url.query")


def start_tracing(process: str) -> None:
    """Trace this process as the service `tiebreak-<process>`, unless `OTEL_SERVICE_NAME` calls it otherwise.

    Once for each process, after it was forked and, for the web, before the application is made.

    Raises:
        ImproperlyConfigured: a collector is named and the packages are missing.
    """
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.celery import CeleryInstrumentor
        from opentelemetry.instrumentation.django import DjangoInstrumentor
        from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ImproperlyConfigured(
            f"OTEL_EXPORTER_OTLP_ENDPOINT is set and {error.name} is missing: install the extra "
            "`opentelemetry` (pip install '.[opentelemetry]'), or unset the variable."
        ) from error

    class Ids(SpanProcessor):
        """The same ids on spans as on lines of the log."""

        def on_start(self, span: Any, parent_context: Any = None) -> None:
            span.set_attributes(current_ids())

    os.environ.setdefault("OTEL_SERVICE_NAME", f"tiebreak-{process}")
    provider = TracerProvider()
    provider.add_span_processor(Ids())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    DjangoInstrumentor().instrument(response_hook=_describe)
    CeleryInstrumentor().instrument()
    PsycopgInstrumentor().instrument()


def _describe(span: "Span", request: "HttpRequest", response: "HttpResponse") -> None:
    """The request's id, and its route in place of the address."""
    route = request.resolver_match.route if request.resolver_match else ""
    span.set_attributes(dict.fromkeys(ADDRESSES, route) | {"request_id": response.get("X-Request-ID", "")})
