"""`/metrics` for Prometheus: the site's own figures, read from Postgres when somebody asks.

Any web process tells the same, so a scrape may meet any of them. Whoever asks has `METRICS_TOKEN` as bearer
token; without that variable there is no such address.
"""

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from secrets import compare_digest

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from annotation.services.vitals import judging_vitals
from training.services.queue import database_now
from training.services.vitals import training_vitals


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """How the site does, in Prometheus' text format."""
    if not settings.METRICS_TOKEN:
        raise Http404
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not compare_digest(given.encode(), settings.METRICS_TOKEN.encode()):
        refused = HttpResponse("A bearer token is needed.\n", "text/plain", HTTPStatus.UNAUTHORIZED)
        refused["WWW-Authenticate"] = "Bearer"
        return refused
    registry = CollectorRegistry()
    registry.register(Site())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class Site(Collector):
    """Judging and runs of the whole site. Ages are by the database's clock."""

    def describe(self) -> Iterable[Metric]:
        return ()  # asked at registration; the figures are read at a scrape only

    def collect(self) -> Iterator[Metric]:
        yield from _judging()
        yield from _training()


def _judging() -> Iterator[Metric]:
    now = judging_vitals(now=database_now())
    yield _gauge(
        "judgements_per_second", "Judgements given, mean of the last 5 minutes", now.judgements_per_second
    )
    yield _gauge("slots_wanted", "Judgements that all projects ask for", now.slots_wanted)
    yield _gauge("slots_open", "Of these, neither given nor in somebody's hands", now.slots_open)
    yield _gauge("leases_open", "Comparisons in somebody's hands", now.leases_open)
    yield _gauge("leases_lapsed", "Leases that ran out and are not taken back yet", now.leases_lapsed)
    yield _gauge(
        "lease_lapsed_age_seconds",
        "How long ago the first of them ran out; grows when the scheduler is down",
        now.oldest_lapsed,
    )
    yield _gauge("webhook_deliveries_due", "Messages to webhooks that are due", now.deliveries_due)
    yield _gauge(
        "webhook_delivery_age_seconds", "How long the first of them has been due", now.oldest_delivery
    )
    jobs = _family("jobs", "Imports, exports and changes of projects that have not ended", "kind", "status")
    ages = _family("job_age_seconds", "Since the first of them was asked for", "kind", "status")
    for job in now.jobs:
        jobs.add_metric([job.kind, job.status], job.count)
        ages.add_metric([job.kind, job.status], job.oldest)
    yield from (jobs, ages)


def _training() -> Iterator[Metric]:
    now = training_vitals(now=database_now(), device_kinds=[settings.RUN_DEVICE_KIND])
    runs = _family("runs", "Runs that have not ended", "device_kind", "status")
    age = _family("run_queue_age_seconds", "Since the first run in the queue was queued", "device_kind")
    for queue in now.queues:
        for status in ("preparing", "queued", "running"):
            runs.add_metric([queue.device_kind, status], getattr(queue, status))
        age.add_metric([queue.device_kind], queue.oldest)
    yield from (runs, age)
    labels = ("run", "method", "device_kind")
    heartbeat = _family("run_heartbeat_age_seconds", "Since the worker of a run gave a sign of life", *labels)
    progress = _family("run_progress_age_seconds", "Since its trainer got further", *labels)
    step = _family("run_step", "Its step", *labels)
    memory = _family("run_device_memory_bytes", "Of its device, as its trainer last told", *labels, "what")
    for run in now.running:
        names = [str(run.run), run.method, run.device_kind]
        heartbeat.add_metric(names, run.heartbeat)
        progress.add_metric(names, run.progress)
        step.add_metric(names, run.step)
        for what, value in run.memory.items():
            memory.add_metric([*names, what], value)
    yield from (heartbeat, progress, step, memory)


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(f"tiebreak_{name}", words, value=value)


def _family(name: str, words: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"tiebreak_{name}", words, labels=labels)
