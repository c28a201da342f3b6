"""Where a member stands: what they may still do here, and what stands in the way."""

from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _

from annotation.errors import NotFound
from annotation.models import Member, Project, QualificationAttempt, User
from annotation.services import eligibility, qualification


def standing(*, project: Project, user: User, now: datetime) -> dict[str, Any]:
    """Keys: `blocked` (a code of `annotation.services.eligibility`, or None) and `reason` in words; `group`;
    `answered`, `quota`, `answered_today`, `daily_cap`; `consent` and `test`, None where none is asked."""
    found = Member.objects.filter(project=project, user=user).select_related("group").first()
    if found is None:
        raise NotFound(_("You are not a member of this project."))
    found.project = project
    blocked = eligibility.why_not(found, holding=0, now=now)
    if blocked is None and qualification.has_failed(found):
        blocked = eligibility.TEST_FAILED
    return {
        "blocked": blocked,
        "reason": str(eligibility.REASONS[blocked]) if blocked else "",
        "group": found.group.name if found.group else None,
        "answered": found.answered,
        "quota": found.quota if found.quota is not None else project.quota,
        "answered_today": eligibility.answered_today(found, now=now),
        "daily_cap": found.daily_cap if found.daily_cap is not None else project.daily_cap,
        "consent": _consent(found, project),
        "test": _test(found, project),
    }


def _consent(member: Member, project: Project) -> dict[str, Any] | None:
    if project.consent_version == 0:
        return None
    return {
        "version": project.consent_version,
        "given": member.consented_version >= project.consent_version,
    }


def _test(member: Member, project: Project) -> dict[str, Any] | None:
    if project.pass_mark is None:
        return None
    attempts = list(
        QualificationAttempt.objects.filter(project=project, annotator=member.user_id).order_by("number")
    )
    finished = [attempt for attempt in attempts if attempt.finished_at is not None]
    return {
        "passed": member.qualified_at is not None,
        "pass_mark": project.pass_mark,
        "questions": len(qualification.questions_of(project.pk)),
        "attempts": project.test_attempts,
        "used": len(finished),
        "last": {"right": finished[-1].right, "total": finished[-1].total} if finished else None,
    }
