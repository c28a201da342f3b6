"""Schedules: plans of runs that start by themselves, after N new judgements or on a cron line."""

import logging
from datetime import datetime
from typing import Any

from croniter import croniter
from django.db import transaction
from django.utils.translation import gettext as _

from annotation.errors import Invalid, ServiceError
from annotation.models import Judgement, Project, User
from training import datasets
from training.models import Run, Schedule
from training.services import creating, naming

logger = logging.getLogger(__name__)
STEP_KEYS = {"method", "base", "config", "reward", "filters", "eval_fraction", "seed", "shuffle_labels"}


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

    A step of the plan is what `create_run` takes. `{"step": 0}` as base, or as an entry of reward, names what
    an earlier step of the same round made. Raises Invalid with paths such as plan.1.config.beta.
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
    if not isinstance(plan, list) or not plan:
        errors["plan"] = _("must be a list with at least one run.")
    if errors:
        raise Invalid(errors)
    for number, step in enumerate(plan):
        _check_step(by=by, project=project, number=number, step=step)
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
    """Switch a schedule on or off. Switched on, it counts from now."""
    schedule.enabled = enabled
    if enabled:
        schedule.judgements_seen, schedule.error = count_judgements(schedule.project), ""
    schedule.save(update_fields=["enabled", "judgements_seen", "error"])


def delete_schedule(*, schedule: Schedule) -> None:
    """Remove a schedule; the runs that it started stay."""
    schedule.delete()


def run_schedules(*, now: datetime) -> int:
    """Fire what is due and go on with what was fired; how many runs were started. Harmless when repeated."""
    started = 0
    enabled = Schedule.objects.filter(enabled=True)
    for pk in enabled.order_by("pk").values_list("pk", flat=True):
        with transaction.atomic():
            locked = enabled.select_for_update(skip_locked=True, no_key=True, of=("self",))
            schedule = locked.select_related("project", "created_by").filter(pk=pk).first()
            if schedule is not None:
                started += _advance(schedule, now=now)
    return started


def count_judgements(project: Project) -> int:
    """The judgements that a schedule counts: standing, regular, and not on held-out comparisons."""
    judged = Judgement.objects.standing().filter(kind=Judgement.Kind.REGULAR)
    return judged.filter(comparison__project=project, comparison__held_out=False).count()


def _advance(schedule: Schedule, *, now: datetime) -> int:
    if schedule.next_step is None:
        if not _is_due(schedule, now=now):
            return 0
        schedule.round += 1
        schedule.fired_at, schedule.next_step, schedule.error = now, 0, ""
        schedule.judgements_seen = count_judgements(schedule.project)
        schedule.save()
    made = {run.schedule_step: run for run in schedule.runs.filter(schedule_round=schedule.round)}
    run = made.get(schedule.next_step)
    if run is not None and run.status in (Run.Status.FAILED, Run.Status.CANCELLED):
        schedule.error = (
            f"Run {run.pk} was {run.status}; the rest of the plan was left out. {run.error}".strip()
        )
        schedule.next_step = None
    elif run is not None and run.status == Run.Status.DONE:
        following = schedule.next_step + 1
        schedule.next_step = following if following < len(schedule.plan) else None
        run = None
    schedule.save()
    if run is not None or schedule.next_step is None:
        return 0
    return _start_step(schedule, made)


def _start_step(schedule: Schedule, made: dict[int | None, Run]) -> int:
    assert schedule.next_step is not None
    step = {name: _resolve(value, made) for name, value in schedule.plan[schedule.next_step].items()}
    try:
        with transaction.atomic():
            creating.create_run(
                by=schedule.created_by,
                project=schedule.project,
                schedule=schedule,
                over_http=True,
                **{"base": None, "config": {}, **step},
            )
    except ServiceError as error:
        schedule.error = f"Step {schedule.next_step + 1} could not start: {error}"
        schedule.next_step = None
        schedule.save()
        return 0
    return 1


def _is_due(schedule: Schedule, *, now: datetime) -> bool:
    if schedule.every_judgements is not None:
        new = count_judgements(schedule.project) - schedule.judgements_seen
        return new >= schedule.every_judgements
    last = schedule.fired_at or schedule.created_at
    due: datetime = croniter(schedule.cron, last).get_next(datetime)
    return due <= now


def _resolve(value: Any, made: dict[int | None, Run]) -> Any:
    """The value with `{"step": 0}` replaced by the name of what that step made."""
    if isinstance(value, dict) and value.keys() == {"step"}:
        return f"checkpoint:{made[value['step']].checkpoint.pk}"
    if isinstance(value, dict) and isinstance(value.get("model"), dict):
        return {**value, "model": _resolve(value["model"], made)}
    if isinstance(value, list):
        named = [_resolve(item, made) for item in value]
        return [{"model": item} if isinstance(item, str) else item for item in named]
    return value


def _check_step(*, by: User, project: Project, number: int, step: Any) -> None:
    """Raise Invalid for what can be known to be wrong before the step runs."""
    where = f"plan.{number}"
    if not isinstance(step, dict) or "method" not in step:
        raise Invalid({where: _('must be an object with a "method".')})
    if unknown := sorted(step.keys() - STEP_KEYS):
        raise Invalid({f"{where}.{unknown[0]}": _("unknown key.")})
    try:
        method = naming.method_for(project, step["method"])
        creating.check_config(method, step.get("config", {}))
        creating.check_seed(step.get("seed", 0))
        datasets.check_filters(step.get("filters", {}))
        _check_reference(step.get("base"), number)
        if not _is_reference(step.get("base")):
            naming.find_base(by=by, name=step.get("base"), method=method)
        naming.check_reward(
            by=by, reward=step.get("reward", []), method=method, over_http=True, earlier_steps=number
        )
    except Invalid as error:
        raise Invalid({f"{where}.{field}": text for field, text in error.errors.items()}) from None


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"step"}


def _check_reference(value: Any, number: int) -> None:
    if _is_reference(value) and not (isinstance(value["step"], int) and 0 <= value["step"] < number):
        raise Invalid(
            {
                "base": _("names step %(step)r; only earlier steps, counted from 0, can be named.")
                % {"step": value["step"]}
            }
        )
    if isinstance(value, dict) and not _is_reference(value):
        raise Invalid({"base": _('must be a name or {"step": number}.')})
