"""Comparisons that one person asked for and alone judges, at once: the duels of an arena.

They are held out, want nobody of the queue, and are leased to that person from the start, in a random order.
What is said of them is a regular judgement, stored by `submit_judgement` like any other. Who wrote what is
told to that person afterwards, so it cannot be taken back.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.utils.translation import gettext as _

from annotation.errors import Conflict
from annotation.models import Comparison, Kind, Lease, Member, Project, User
from annotation.permissions import Action, find
from annotation.services import eligibility, qualification, queue, reopening
from annotation.services.comparisons import add_groups

KEPT: Final = timedelta(days=1)  # who comes back later begins anew


def check_may_ask(*, project: Project, user: User) -> None:
    """Raise `Blocked`, or `Conflict` before the test of the work is passed, unless this member may judge."""
    find(Project.objects.all(), user, Action.JUDGE, pk=project.pk)
    member = Member.objects.select_related("project").get(project=project, user=user)
    eligibility.check_allowed(member)
    if qualification.is_due(member):
        raise Conflict(_("The work here begins with a test; pass it first, on the page for judging."))


@transaction.atomic
def lease_alone(*, project: Project, user: User, group: dict[str, Any], now: datetime) -> Lease:
    """A comparison of this group, in the hands of this person alone."""
    (pk,) = add_groups(project=project, groups=[group], held_out=True, needed=0)
    return Lease.objects.create(
        comparison_id=pk,
        annotator=user,
        kind=Kind.DUEL,
        order=queue.random_order(len(group["candidates"])),
        template_version=project.template_version,
        created_at=now,
        expires_at=now + KEPT,
    )


@transaction.atomic
def take_away(*, lease: Lease) -> None:
    """Delete a comparison that was leased alone and not judged. `Conflict` if it is judged."""
    reopening.lock([lease.comparison_id])
    found = Lease.objects.filter(pk=lease.pk, kind=Kind.DUEL)
    if found.filter(judgement__isnull=False).exists():
        raise Conflict(_("You have judged these answers already."))
    found.delete()
    Comparison.objects.filter(pk=lease.comparison_id).delete()
