"""What the pages read: constant numbers of queries, explicit order, nothing written."""

from datetime import date, timedelta
from itertools import count
from typing import Any

from django.db.models import (
    BigIntegerField,
    Case,
    Count,
    F,
    OuterRef,
    Prefetch,
    Q,
    QuerySet,
    Subquery,
    Sum,
    When,
)
from django.db.models.functions import Coalesce
from django.utils import timezone

from annotation.models import (
    AuditEntry,
    BulkChange,
    Candidate,
    Comparison,
    Judgement,
    Lease,
    Member,
    Project,
    SlotTally,
    User,
)
from annotation.permissions import Role


def projects_of(user: User) -> QuerySet[Project]:
    """This person's projects, newest first.

    Each has their `role`, `mine` (what they answered), and of its slots how many are `wanted`, `open`,
    `held` (in somebody's hands) and `judged`.
    """
    own = SlotTally.objects.filter(project=OuterRef("pk")).order_by().values("project")
    held = Lease.objects.filter(
        comparison__project=OuterRef("pk"), state=Lease.State.OPEN, slot__isnull=False
    )
    held = held.order_by()
    each = "comparison__project"
    return (
        Project.objects.filter(members__user=user)
        .annotate(
            role=F("members__role"),
            mine=F("members__answered"),
            wanted=Coalesce(
                Subquery(own.annotate(total=Sum("wanted")).values("total")), 0, output_field=BigIntegerField()
            ),
            open=Coalesce(
                Subquery(own.annotate(total=Sum("open")).values("total")), 0, output_field=BigIntegerField()
            ),
            held=Coalesce(Subquery(held.values(each).annotate(total=Count("pk")).values("total")), 0),
        )
        .annotate(judged=F("wanted") - F("open") - F("held"))
        .order_by("-created_at", "-pk")
    )


def judged_slots(project: Project, progress: dict[str, Any]) -> int:
    """How many slots are judged: neither open nor in anybody's hands."""
    held = Lease.objects.filter(
        comparison__project=project, state=Lease.State.OPEN, slot__isnull=False
    ).count()
    return int(progress["wanted"] - progress["open"] - held)


def own_judgements(*, project: Project, user: User) -> QuerySet[Judgement]:
    """What this person said on the pages or over the API and did not take back, newest first.

    Without what they said in the arena: that cannot be taken back.
    """
    mine = (
        Judgement.objects.standing()
        .filter(comparison__project=project, annotator=user, lease__isnull=False)
        .exclude(lease__kind=Lease.Kind.DUEL)
    )
    return mine.select_related("comparison").order_by("-created_at", "-pk")


def days_in_a_row(*, project: Project, user: User, today: date) -> int:
    """On how many days up to today this person judged here without a break; today may still be to come."""
    days = own_judgements(project=project, user=user).order_by().values_list("created_at__date", flat=True)
    judged = set(days.filter(created_at__date__gte=today - timedelta(days=366)).distinct())
    last = today if today in judged else today - timedelta(days=1)
    return next(n for n in count() if last - timedelta(days=n) not in judged)


def comparison_in_full(project: Project) -> QuerySet[Comparison]:
    """For the page of one comparison: candidates, and every judgement with its annotator, undone ones too."""
    judgements = Judgement.objects.select_related("annotator", "set_aside").order_by("created_at", "pk")
    judgements = judgements.prefetch_related("changes__changed_by")
    return Comparison.objects.filter(project=project).prefetch_related(
        candidates_in_order(), Prefetch("judgements", queryset=judgements)
    )


def is_in_hands_of(comparison: Comparison, user: User) -> bool:
    """Whether this person is to judge it themselves."""
    return Lease.objects.in_hands_of(user).filter(comparison=comparison).exists()


def members_of(project: Project) -> QuerySet[Member]:
    """Members, owners first."""
    return (
        Member.objects.filter(project=project)
        .select_related("user", "group")
        .annotate(place=Case(*(When(role=role, then=n) for n, role in enumerate(Role))))
        .order_by("place", "user__username", "pk")
    )


def audit_of(
    project: Project,
    *,
    subject: str = "",
    change: str = "",
    actor: str = "",
    since: date | None = None,
    until: date | None = None,
) -> QuerySet[AuditEntry]:
    """What was changed in a project, newest first; the days are UTC and both count."""
    found = AuditEntry.objects.filter(project=project).select_related("actor")
    wanted = {"subject": subject, "change": change, "actor__username": actor}
    found = found.filter(**{name: value for name, value in wanted.items() if value})
    if since:
        found = found.filter(at__date__gte=since)
    if until:
        found = found.filter(at__date__lte=until)
    return found.order_by("-at", "-pk")


def changes_of(project: Project) -> QuerySet[BulkChange]:
    """Changes to many rows that are being made, and what could not be done lately, oldest first."""
    lately = timezone.now() - timedelta(days=7)
    failed = Q(status=BulkChange.Status.FAILED, finished_at__gte=lately)
    shown = BulkChange.objects.filter(Q(status__in=BulkChange.UNFINISHED) | failed, project=project)
    return shown.order_by("pk")


def candidates_in_order() -> Prefetch:
    """To prefetch them with their pictures."""
    return Prefetch("candidates", queryset=Candidate.objects.select_related("image").order_by("index"))
