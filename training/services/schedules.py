"""Schedules: plans that start a round by themselves, after N new judgements or on a cron line."""

from datetime import datetime
from typing import Any

from croniter import croniter
from django.db import transaction
from django.utils.translation import gettext as _

from annotation.errors import Invalid
from annotation.models import Judgement, Project, User
from training.models import Round, Schedule
from training.services import rounds, steps


def create_schedule(
    *,
    by: User,
    project: Project,
    name: str,
    plan: list[dict[str, Any]],
    every_judgements: int | None = None,
    cron: str = "",
) -> Schedule:
    """A plan that fires after every N new judgements, or on a cron line (UTC).

    `training.services.steps` says what the steps of a plan can be. Raises Invalid with paths such as
    plan.1.config.beta.
    """
    errors: dict[str, str] = {}
    if not name.strip():
        errors["name"] = _("Give the schedule a name.")
    if (every_judgements is None) == (not cron):
        errors["every_judgements"] = _("Give either a number of judgements or a cron line.")
    elif cron and not croniter.is_valid(cron):
        errors["cron"] = _("%(cron)r is no cron line; five fields are needed, such as 0 3 * * 1.") % {
            "cron": cron
        }
    elif every_judgements is not None and every_judgements < 1:
        errors["every_judgements"] = _("must be at least 1.")
    if errors:
        raise Invalid(errors)
    steps.check_plan(by=by, project=project, plan=plan)
    return Schedule.objects.create(
        project=project,
        name=name.strip(),
        every_judgements=every_judgements,
        cron=cron,
        plan=plan,
        judgements_seen=count_judgements(project),
        created_by=by,
    )


def set_enabled(*, schedule: Schedule, enabled: bool) -> None:
    """Switch a schedule on or off. Switched on, it counts from now; a round that runs goes on."""
    schedule.enabled = enabled
    if enabled:
        schedule.judgements_seen = count_judgements(schedule.project)
    schedule.save(update_fields=["enabled", "judgements_seen"])


def delete_schedule(*, schedule: Schedule) -> None:
    """Remove a schedule; the rounds that it started stay, with their runs."""
    schedule.delete()


def run_schedules(*, now: datetime) -> int:
    """Start the rounds that are due and go on with those that run; how many steps were begun. Harmless when
    repeated."""
    enabled = Schedule.objects.filter(enabled=True)
    for pk in enabled.order_by("pk").values_list("pk", flat=True):
        with transaction.atomic():
            locked = enabled.select_for_update(skip_locked=True, no_key=True, of=("self",))
            schedule = locked.select_related("project", "created_by").filter(pk=pk).first()
            if schedule is not None:
                _fire_if_due(schedule, now=now)
    return rounds.advance_rounds(now=now)


def count_judgements(project: Project) -> int:
    """The judgements that a schedule counts: standing, regular, and not on held-out comparisons."""
    judged = Judgement.objects.standing().filter(kind=Judgement.Kind.REGULAR)
    return judged.filter(comparison__project=project, comparison__held_out=False).count()


def _fire_if_due(schedule: Schedule, *, now: datetime) -> None:
    if schedule.rounds.filter(status=Round.Status.RUNNING).exists() or not _is_due(schedule, now=now):
        return
    schedule.fired_at = now
    schedule.judgements_seen = count_judgements(schedule.project)
    schedule.save(update_fields=["fired_at", "judgements_seen"])
    rounds.start_round(schedule=schedule, now=now)


def _is_due(schedule: Schedule, *, now: datetime) -> bool:
    if schedule.every_judgements is not None:
        new = count_judgements(schedule.project) - schedule.judgements_seen
        return new >= schedule.every_judgements
    last = schedule.fired_at or schedule.created_at
    due: datetime = croniter(schedule.cron, last).get_next(datetime)
    return due <= now
