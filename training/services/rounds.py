"""Rounds: plans that were started. A step begins when the one before it is done; any can be tried again."""

import logging
from datetime import datetime

from django.db import transaction
from django.utils.translation import gettext as _

from annotation.errors import Conflict, ServiceError
from training.models import Round, RoundStep, Run, Schedule
from training.services import creating, steps
from training.services.queue import database_now

logger = logging.getLogger(__name__)
WAITING, RUNNING = RoundStep.Status.WAITING, RoundStep.Status.RUNNING


def start_round(*, schedule: Schedule, now: datetime) -> Round:
    """A round of a schedule's plan as it is now; `advance_rounds` starts its first step."""
    newest = schedule.rounds.order_by("-number").values_list("number", flat=True).first() or 0
    made = Round.objects.create(
        project=schedule.project,
        schedule=schedule,
        name=schedule.name,
        number=newest + 1,
        created_by=schedule.created_by,
        started_at=now,
    )
    RoundStep.objects.bulk_create(
        RoundStep(round=made, index=index, kind=spec.get("do", "train"), spec=spec)
        for index, spec in enumerate(schedule.plan)
    )
    return made


def advance_rounds(*, now: datetime) -> int:
    """Bring every running round as far as it goes now; how many steps were begun. Harmless when repeated."""
    begun = 0
    running = Round.objects.filter(status=Round.Status.RUNNING)
    for pk in running.order_by("pk").values_list("pk", flat=True):
        with transaction.atomic():
            locked = running.select_for_update(skip_locked=True, no_key=True, of=("self",))
            found = locked.select_related("project", "created_by").filter(pk=pk).first()
            if found is not None:
                begun += _advance(found, now=now)
    return begun


def _advance(this: Round, *, now: datetime) -> int:
    """Go through the steps up to one that takes its time; how many were begun."""
    begun = 0
    for step in this.steps.select_related("run", "match"):
        step.round = this
        if step.status == WAITING:
            begun += 1
            _begin(step, now=now)
        if step.status == RUNNING:
            _follow(step, now=now)
        if step.status == RUNNING:
            return begun
        if step.status != RoundStep.Status.DONE:
            _end(this, Round.Status(step.status), error=f"Step {step.index + 1}: {step.error}", now=now)
            return begun
    _end(this, Round.Status.DONE, error="", now=now)
    return begun


def _begin(step: RoundStep, *, now: datetime) -> None:
    step.status, step.error, step.started_at = RUNNING, "", now
    step.result, step.finished_at = {}, None
    step.save()
    try:
        with transaction.atomic():
            steps.KINDS[step.kind].start(step, steps.resolved(step))
    except ServiceError as error:
        step.refresh_from_db()
        _finish(step, RoundStep.Status.FAILED, error=f"could not start: {error}", now=now)


def _follow(step: RoundStep, *, now: datetime) -> None:
    try:
        with transaction.atomic():
            has_ended = steps.KINDS[step.kind].follow(step)
    except (steps.StepFailed, ServiceError) as error:
        _finish(step, RoundStep.Status.FAILED, error=str(error), now=now)
        return
    if not has_ended:
        return
    why_not = " ".join(step.result.get("why_not", []))
    stops = why_not and not step.spec.get("go_on", False)
    _finish(step, RoundStep.Status.STOPPED if stops else RoundStep.Status.DONE, error=why_not, now=now)


def _finish(step: RoundStep, status: RoundStep.Status, *, error: str, now: datetime) -> None:
    step.status, step.error, step.finished_at = status, error, now
    step.save()


def _end(this: Round, status: Round.Status, *, error: str, now: datetime) -> None:
    this.status, this.error, this.finished_at = status, error, now
    this.save(update_fields=["status", "error", "finished_at"])
    logger.info("%s of project %s: %s %s", this, this.project_id, status, error)


@transaction.atomic
def retry_round(*, round_id: int) -> None:
    """Go on from the step that failed, was cancelled or stopped: a run resumes from its newest checkpoint,
    all else is done anew. Conflict if the round runs, is done, or another of its schedule runs.
    """
    this = Round.objects.select_for_update(no_key=True).get(pk=round_id)
    if this.status in (Round.Status.RUNNING, Round.Status.DONE):
        raise Conflict(_("Round %(id)s has nothing to try again.") % {"id": this.pk})
    others = Round.objects.exclude(schedule=None).filter(schedule=this.schedule)
    if others.filter(status=Round.Status.RUNNING).exists():
        raise Conflict(_("Another round of this schedule is running; wait for its end."))
    step = this.steps.exclude(status=RoundStep.Status.DONE).select_related("run").first()
    assert step is not None
    if step.run is not None:
        if step.run.status in (Run.Status.FAILED, Run.Status.CANCELLED):
            creating.retry_run(run=step.run)
        step.status, step.error, step.finished_at = RUNNING, "", None
    else:
        step.status, step.match = WAITING, None
    step.save()
    this.status, this.error, this.finished_at = Round.Status.RUNNING, "", None
    this.save(update_fields=["status", "error", "finished_at"])


@transaction.atomic
def cancel_round(*, round_id: int) -> None:
    """End a round; the run of its current step is cancelled, what was made before stays."""
    this = Round.objects.select_for_update(no_key=True).get(pk=round_id)
    if this.status != Round.Status.RUNNING:
        raise Conflict(_("Round %(id)s has ended; there is nothing to cancel.") % {"id": this.pk})
    now = database_now()
    step = this.steps.exclude(status=RoundStep.Status.DONE).select_related("run").first()
    if step is not None and step.run is not None and not step.run.has_ended:
        creating.cancel_run(run=step.run)
    if step is not None:
        _finish(step, RoundStep.Status.CANCELLED, error="cancelled", now=now)
    _end(this, Round.Status.CANCELLED, error="", now=now)
