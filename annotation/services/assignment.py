"""How a project's work is handed out: strategy, limits, checks, the test, reasons to skip, and groups."""

import math
from typing import Any, Final

from django.db import transaction
from django.db.models import F, OuterRef, Subquery, Sum
from django.utils.translation import gettext as _

from annotation.errors import Invalid, NotFound
from annotation.models import (
    AnnotatorGroup,
    BulkChange,
    Comparison,
    GoldAnswer,
    Judgement,
    Lease,
    Member,
    Project,
    QueueStrategy,
    Reservation,
)
from annotation.services import bulk
from annotation.services.strategies import lock_members, lower_frontiers, use_strategy

MOST_CHECKS: Final = 0.5
MOST_REASONS: Final = 50
BATCH: Final = 500  # comparisons in one transaction of the end of a group
SETTINGS: Final = (
    "queue_strategy", "quota", "daily_cap", "gold_rate", "repeat_rate", "repeat_distance", "pass_mark",
    "test_attempts", "skip_reasons", "review_overrules",
)  # fmt: skip


@transaction.atomic
def update_assignment(*, project: Project, **changes: Any) -> Project:
    """Change how the project's work is handed out; the names are `SETTINGS`.

    Limits and rates count from the next comparison on. Another strategy puts the whole queue into another
    order, in the background where that takes long.
    """
    if unknown := changes.keys() - set(SETTINGS):
        raise Invalid(dict.fromkeys(sorted(unknown), _("cannot be changed here.")))
    project = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    strategy = changes.pop("queue_strategy", project.queue_strategy)
    for field, value in changes.items():
        setattr(project, field, value)
    project.skip_reasons = [reason.strip() for reason in project.skip_reasons if reason.strip()]
    if errors := _errors(project, strategy):
        raise Invalid(errors)
    project.save(update_fields=list(changes))
    if strategy != project.queue_strategy:
        use_strategy(project=project, strategy=strategy)
    return project


def _errors(project: Project, strategy: str) -> dict[str, str]:
    errors = {}
    if strategy not in QueueStrategy.values:
        errors["queue_strategy"] = _("must be one of %(names)s.") % {"names": ", ".join(QueueStrategy.values)}
    rates = {"gold_rate": project.gold_rate, "repeat_rate": project.repeat_rate}
    errors |= {
        name: _("must be between 0 and %(most)s.") % {"most": MOST_CHECKS}
        for name, rate in rates.items()
        if not (math.isfinite(rate) and 0 <= rate <= MOST_CHECKS)
    }
    if not errors and sum(rates.values()) > MOST_CHECKS:
        errors["repeat_rate"] = _("Gold questions and repeats together are half of what is shown at most.")
    if project.pass_mark is not None and not 0 <= project.pass_mark <= 1:
        errors["pass_mark"] = _("must be between 0 and 1.")
    elif project.pass_mark is not None and not _has_test(project):
        errors["pass_mark"] = _("The test has no questions yet; add known answers for it first.")
    if project.test_attempts < 1:
        errors["test_attempts"] = _("must be at least 1.")
    reasons = project.skip_reasons
    if len(reasons) > MOST_REASONS or any(len(reason) > 200 for reason in reasons):
        errors["skip_reasons"] = _("may be 50 texts of 200 characters each at most.")
    return errors


def _has_test(project: Project) -> bool:
    return GoldAnswer.objects.filter(project=project, purpose=GoldAnswer.Purpose.QUALIFICATION).exists()


@transaction.atomic
def save_group(
    *,
    project: Project,
    group: AnnotatorGroup | None = None,
    name: str,
    attributes: dict[str, Any] | None = None,
    reserved_labels: int = 0,
) -> AnnotatorGroup:
    """Make or change a group of annotators.

    `reserved_labels` of each comparison's judgements come from members of this group; it counts for
    comparisons added from now on. All groups together may reserve no more than the project asks for.
    """
    project = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    others = project.annotator_groups.exclude(pk=group.pk) if group else project.annotator_groups.all()
    group = group or AnnotatorGroup(project=project)
    group.name, group.attributes, group.reserved_labels = name.strip(), attributes or {}, reserved_labels
    if not group.name:
        raise Invalid({"name": _("must not be empty.")})
    if others.filter(name=group.name).exists():
        raise Invalid({"name": _("There is a group of this name already.")})
    _check_attributes(group.attributes)
    reserved = (others.aggregate(total=Sum("reserved_labels"))["total"] or 0) + reserved_labels
    if reserved > project.labels_per_comparison:
        message = _("The groups would reserve %(reserved)s judgements, of %(wanted)s for each comparison.")
        values = {"reserved": reserved, "wanted": project.labels_per_comparison}
        raise Invalid({"reserved_labels": message % values})
    group.save()
    return group


def _check_attributes(attributes: Any) -> None:
    plain = isinstance(attributes, dict) and all(
        isinstance(key, str) and isinstance(value, str | int | float | bool)
        for key, value in attributes.items()
    )
    if not plain:
        raise Invalid({"attributes": _("must be an object of plain values.")})


@transaction.atomic
def remove_group(*, project: Project, group: AnnotatorGroup) -> BulkChange:
    """Dissolve a group: its members stay, and open slots that waited for it are anybody's.

    The group itself goes when the last of them is free.
    """
    if group.project_id != project.pk:
        raise NotFound(_("There is no such group in this project."))
    project = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    group.reserved_labels = 0
    group.save(update_fields=["reserved_labels"])
    total = Reservation.objects.filter(group=group).count() + Judgement.objects.filter(group=group).count()
    return bulk.start(project, BulkChange.Kind.GROUP, total=total, subject={"group": group.pk})


def dissolve_batch(change: BulkChange) -> bulk.Batch:
    """The next slots that wait for a group, then what its members said, then the group."""
    group: int = change.subject["group"]
    mine = Reservation.objects.filter(group=group).order_by("comparison")
    ids = list(mine.values_list("comparison", flat=True)[:BATCH])
    _free_reserved(change.project_id, group, ids)
    if len(ids) == BATCH:
        return bulk.Batch(BATCH, change.position, finished=False)
    Member.objects.filter(group=group).update(group=None)
    given = list(Judgement.objects.filter(group=group).order_by("pk").values_list("pk", flat=True)[:BATCH])
    Judgement.objects.filter(pk__in=given).update(group=None)
    if len(given) < BATCH:
        AnnotatorGroup.objects.filter(pk=group).delete()
    return bulk.Batch(len(ids) + len(given), change.position, finished=len(given) < BATCH)


def _free_reserved(project: int, group: int, comparisons: list[int]) -> None:
    """Make a group's slots of these comparisons anybody's."""
    rows = Comparison.objects.select_for_update(no_key=True).filter(pk__in=comparisons).order_by("pk")
    keys = dict(rows.values_list("pk", "queue_key"))
    lock_members([project])
    reservations = Reservation.objects.filter(group=group, comparison__in=comparisons)
    freed = list(reservations.filter(open_slots__gt=0).values_list("comparison", flat=True))
    own = reservations.filter(comparison=OuterRef("pk")).values("open_slots")
    Comparison.objects.filter(pk__in=freed).update(reserved_open=F("reserved_open") - Subquery(own))
    Lease.objects.filter(comparison__in=comparisons, reserved_for=group).update(reserved_for=None)
    reservations.delete()
    if freed:
        lower_frontiers(project, key=min(keys[pk] for pk in freed))
