"""How runs do right now, for whoever operates the site."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db.models import Count, Min

from training.models import Metric, Run

WAITING: Final = (Run.Status.PREPARING, Run.Status.QUEUED, Run.Status.RUNNING)
LOOKED_AT: Final = 20  # newest rows of a run's metrics, for what its device holds


@dataclass(frozen=True)
class Queue:
    """Runs for one kind of device; `oldest`: seconds since the first one in the queue was queued."""

    device_kind: str
    preparing: int
    queued: int
    running: int
    oldest: float


@dataclass(frozen=True)
class Pulse:
    """A running run. Ages in seconds; memory in bytes, as its trainer last told; empty without a device."""

    run: int
    method: str
    device_kind: str
    heartbeat: float
    progress: float
    step: int
    memory: dict[str, float]


@dataclass(frozen=True)
class TrainingVitals:
    queues: tuple[Queue, ...]
    running: tuple[Pulse, ...]


def training_vitals(*, now: datetime, device_kinds: Iterable[str]) -> TrainingVitals:
    """Of the whole site. `device_kinds` are named even where nothing waits for them."""
    rows = Run.objects.filter(status__in=WAITING).order_by().values("device_kind", "status")
    counts: dict[tuple[str, str], int] = {}
    oldest: dict[str, float] = {}
    for row in rows.annotate(count=Count("pk"), oldest=Min("queued_at")):
        counts[row["device_kind"], row["status"]] = row["count"]
        if row["status"] == Run.Status.QUEUED:
            oldest[row["device_kind"]] = _age(row["oldest"], now)
    queues = [
        Queue(
            kind,
            preparing=counts.get((kind, Run.Status.PREPARING), 0),
            queued=counts.get((kind, Run.Status.QUEUED), 0),
            running=counts.get((kind, Run.Status.RUNNING), 0),
            oldest=oldest.get(kind, 0.0),
        )
        for kind in sorted({*device_kinds, *(kind for kind, _status in counts)})
    ]
    running = Run.objects.filter(status=Run.Status.RUNNING).order_by("pk")
    return TrainingVitals(tuple(queues), tuple(_pulse(run, now) for run in running))


def _pulse(run: Run, now: datetime) -> Pulse:
    return Pulse(
        run=run.pk,
        method=run.method,
        device_kind=run.device_kind,
        heartbeat=_age(run.heartbeat_at or run.started_at, now),
        progress=_age(run.progress_at or run.started_at, now),
        step=run.step,
        memory=_memory(run),
    )


def _memory(run: Run) -> dict[str, float]:
    newest = Metric.objects.filter(run=run).order_by("-step", "-pk").values_list("values", flat=True)
    for values in newest[:LOOKED_AT]:
        if told := _memory_in(values):
            return told
    return {}


def _memory_in(values: dict[str, Any]) -> dict[str, float]:
    """What `training.tuning.processes.device_memory` told, in bytes."""
    return {
        key.removeprefix("memory/").removesuffix("_gib"): value * 2**30
        for key, value in values.items()
        if key.startswith("memory/") and key.endswith("_gib") and value is not None
    }


def _age(since: datetime | None, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds()) if since is not None else 0.0
