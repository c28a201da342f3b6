"""How judging and its background jobs do right now, for whoever operates the site."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Count, Min, Sum
from django.db.models.functions import Coalesce

from annotation.models import Judgement, Lease, SlotTally, WebhookDelivery
from annotation.services.jobs import TASKS

RECENT: Final = timedelta(minutes=5)


@dataclass(frozen=True)
class Backlog:
    """Jobs of one kind that have not ended. `oldest`: seconds since the first of them was asked for."""

    kind: str
    status: str
    count: int
    oldest: float


@dataclass(frozen=True)
class JudgingVitals:
    """Ages in seconds; 0 where nothing ages. `lapsed` leases ran out and are not taken back yet."""

    judgements_per_second: float
    slots_wanted: int
    slots_open: int
    leases_open: int
    leases_lapsed: int
    oldest_lapsed: float
    jobs: tuple[Backlog, ...]
    deliveries_due: int
    oldest_delivery: float


def judging_vitals(*, now: datetime) -> JudgingVitals:
    """Of the whole site, in few queries that each read an index, whatever has been collected."""
    given = Judgement.objects.filter(created_at__gt=now - RECENT, created_at__lte=now).count()
    slots = SlotTally.objects.aggregate(wanted=Coalesce(Sum("wanted"), 0), open=Coalesce(Sum("open"), 0))
    held = Lease.objects.filter(state=Lease.State.OPEN).count()
    lapsed = Lease.objects.lapsed(now=now).aggregate(count=Count("pk"), oldest=Min("expires_at"))
    pending = WebhookDelivery.objects.filter(status=WebhookDelivery.Status.WAITING, next_at__lte=now)
    due = pending.aggregate(count=Count("pk"), oldest=Min("next_at"))
    return JudgingVitals(
        judgements_per_second=given / RECENT.total_seconds(),
        slots_wanted=slots["wanted"],
        slots_open=slots["open"],
        leases_open=held,
        leases_lapsed=lapsed["count"],
        oldest_lapsed=_age(lapsed["oldest"], now),
        jobs=tuple(_backlogs(now)),
        deliveries_due=due["count"],
        oldest_delivery=_age(due["oldest"], now),
    )


def _backlogs(now: datetime) -> list[Backlog]:
    """Of every kind and status, also where there is nothing: a series that vanishes raises no alarm."""
    found = []
    for model, task in TASKS.items():
        unfinished = model._default_manager.filter(status__in=model.UNFINISHED).order_by().values("status")
        counted = unfinished.annotate(count=Count("pk"), oldest=Min("created_at"))
        rows = {row["status"]: (row["count"], _age(row["oldest"], now)) for row in counted}
        for status in model.UNFINISHED:
            count, oldest = rows.get(status, (0, 0.0))
            found.append(Backlog(task.removeprefix("run_"), str(status), count, oldest))
    return found


def _age(since: datetime | None, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds()) if since is not None else 0.0
