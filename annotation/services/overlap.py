"""How many people judge certain comparisons: more where it matters, fewer where it is settled."""

from collections.abc import Sequence
from typing import Final

from django.db import transaction
from django.utils.translation import gettext as _

from annotation.errors import Conflict, Invalid
from annotation.models import Comparison, Project
from annotation.services.counting import mark_stale
from annotation.services.strategies import lock_members, lower_frontiers

MOST_LABELS: Final = 1000


@transaction.atomic
def set_overlap(*, project: Project, comparisons: Sequence[int], labels: int) -> int:
    """Have these comparisons judged by so many people; in how many that changed anything.

    Judgements that are given, and what somebody has open, stay: a comparison never wants fewer than those,
    nor fewer than wait for certain groups. New slots are anybody's, and who had passed them comes back.
    """
    if not 1 <= labels <= MOST_LABELS:
        raise Invalid({"labels": _("must be between 1 and %(most)s.") % {"most": MOST_LABELS}})
    rows = Comparison.objects.select_for_update(no_key=True).filter(project=project, pk__in=comparisons)
    found = list(rows.order_by("pk"))
    if missing := sorted(set(comparisons) - {comparison.pk for comparison in found}):
        raise Invalid(
            {"comparisons": _("There is no comparison %(id)s in this project.") % {"id": missing[0]}}
        )
    if known := next((comparison.pk for comparison in found if not comparison.needed), None):
        raise Conflict(
            _("Comparison %(id)s is a question with a known answer and nothing else.") % {"id": known}
        )
    lock_members([project.pk])
    changed, opened = [], []
    for comparison in found:
        taken = comparison.needed - comparison.open_slots
        more = max(labels, taken + comparison.reserved_open) - comparison.needed
        if more:
            comparison.needed += more
            comparison.open_slots += more
            changed.append(comparison)
        if more > 0:
            opened.append(comparison.queue_key)
    Comparison.objects.bulk_update(changed, ["needed", "open_slots"], batch_size=1000)
    mark_stale([comparison.pk for comparison in changed])
    if opened:
        lower_frontiers(project.pk, key=min(opened))
    return len(changed)
