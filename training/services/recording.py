"""All that a worker writes about its attempt. Nothing is written once the run is no longer this attempt's."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models.functions import Now

from training import storage
from training.models import Checkpoint, Metric, ResumePoint, Run
from training.services import queue
from training.services.errors import GivenUp
from training.services.workspace import kind_of

logger = logging.getLogger(__name__)
T = TypeVar("T")
OUTAGES = (OperationalError, InterfaceError)
LONGEST_WAIT = 5.0  # seconds between tries during an outage


@dataclass
class News:
    """What changed in a run directory since the last look. `metrics` and `samples` are rows of the files."""

    state: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    log_tail: str | None = None
    progress: bool = False


class Recorder:
    """Writes in the name of one attempt; every method raises GivenUp once another owns the run."""

    def __init__(self, run: Run) -> None:
        self.run = run

    @contextmanager
    def held(self) -> Iterator[Run]:
        """A transaction that holds the run's row, so that nobody can take the run away in between."""
        with transaction.atomic():
            queue.hold_no_longer_than_a_lease()
            held = Run.objects.held_by(self.run).select_for_update(no_key=True)
            run = held.only("pk", "attempt", "lost_attempts", "cancel_requested_at").first()
            if run is None:
                raise GivenUp(f"run {self.run.pk}, attempt {self.run.attempt}")
            yield run

    def check(self) -> None:
        """Nothing but the question whether the run is still this attempt's."""
        with self.held():
            pass

    def begin(self, *, step: int) -> None:
        """The trainer will go on from `step`: rows of later steps are void."""
        with self.held():
            Metric.objects.filter(run=self.run, step__gt=step).delete()
            self._update(step=step, progress_at=Now())

    def record(self, news: News) -> None:
        """Metrics replace rows of the same step; samples and the log's end replace what was there."""
        changes: dict[str, Any] = {}
        if isinstance(step := news.state.get("step"), int):
            changes["step"] = step
        if isinstance(total := news.state.get("total_steps"), int):
            changes["total_steps"] = total
        if news.samples:
            changes["samples"] = clean(news.samples)
        if news.log_tail is not None:
            changes["log_tail"] = clean(news.log_tail)
        if news.progress:
            changes["progress_at"] = Now()
        with self.held():
            self._upsert_metrics(news.metrics)
            if changes:
                self._update(**changes)

    def add_resume_point(self, step: int, stored: storage.Stored, *, keep: set[int]) -> None:
        """Record an uploaded checkpoint; older ones that the trainer no longer keeps are removed."""
        with self.held():
            place = {"storage_key": stored.key, "sha256": stored.sha256}
            ResumePoint.objects.update_or_create(run=self.run, step=step, defaults=place)
            old = ResumePoint.objects.filter(run=self.run, step__lt=step).exclude(step__in=keep)
            keys = self._forget(old)
        self._delete(keys)

    def finish(self, result: storage.Stored, metadata: dict[str, Any]) -> None:
        """Done: the result becomes a checkpoint, and what was kept for resuming goes."""
        with self.held():
            values = {"storage_key": result.key, "sha256": result.sha256, "size": result.size}
            Checkpoint.objects.update_or_create(
                run=self.run, defaults={**values, "metadata": clean(metadata)}
            )
            keys = self._forget(ResumePoint.objects.filter(run=self.run))
            self._end(Run.Status.DONE)
        self._delete(keys)

    def fail(self, error: str) -> None:
        """The run has failed, and this sentence says why."""
        with self.held():
            self._end(Run.Status.FAILED, error=clean(error))

    def cancelled(self) -> None:
        """The trainer saved and stopped because somebody asked it to."""
        with self.held():
            self._end(Run.Status.CANCELLED)

    def give_back(self, reason: str, *, counts: bool) -> None:
        """This attempt came to nothing; another one follows, if it `counts` after a pause, unless too many
        were lost."""
        pause = settings.RUN_RETRY_PAUSE if counts else timedelta(0)
        with self.held() as run:
            queue.give_back(run, reason=clean(reason), counts=counts, pause=pause)

    def _end(self, status: Run.Status, *, error: str = "") -> None:
        queue.end(self.run, status, error=error, heartbeat_at=Now())

    def _update(self, **changes: Any) -> None:
        Run.objects.filter(pk=self.run.pk).update(**changes)

    def _upsert_metrics(self, rows: list[dict[str, Any]]) -> None:
        merged: dict[tuple[int, str], dict[str, Any]] = {}
        for row in rows:
            values = {name: value for name, value in clean(row).items() if name != "step"}
            merged.setdefault((row["step"], kind_of(row)), {}).update(values)
        Metric.objects.bulk_create(
            [
                Metric(run=self.run, step=step, kind=kind, values=values)
                for (step, kind), values in merged.items()
            ],
            update_conflicts=True,
            unique_fields=["run", "step", "kind"],
            update_fields=["values"],
        )

    def _forget(self, points: Any) -> list[str]:
        keys = list(points.values_list("storage_key", flat=True))
        points.delete()
        left = ResumePoint.objects.filter(run=self.run).values_list("storage_key", flat=True)
        return sorted(set(keys) - set(left))

    def _delete(self, keys: list[str]) -> None:
        for key in keys:
            try:
                storage.delete(key)
            except (OSError, storage.StorageError) as error:  # it only takes room
                logger.warning("%s was left in the storage: %s", key, error)


def insist(write: Callable[[], T], *, what: str) -> T:
    """Do a database write, again and again through an outage of the database."""
    wait = 0.2
    while True:
        try:
            return write()
        except OUTAGES as error:
            logger.warning(
                "%s: the database is away (%s); trying again", what, str(error).strip().split("\n")[0]
            )
            connection.close()
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


def clean(value: Any) -> Any:
    """The value without what Postgres cannot store: NULs, lone surrogates, numbers that are not finite.

    A row's numbers that are not finite become null, with their names under "nonfinite".
    """
    if isinstance(value, str):
        return value.replace("\0", "�").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        bad = [name for name, item in value.items() if isinstance(item, float) and not _is_finite(item)]
        row = {clean(name): None if name in bad else clean(item) for name, item in value.items()}
        if bad:
            row["nonfinite"] = (value.get("nonfinite") or []) + bad
        return row
    if isinstance(value, float) and not _is_finite(value):
        return None
    return value


def _is_finite(value: float) -> bool:
    return value - value == 0
