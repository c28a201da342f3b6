"""Whether a member may take more: paused, asked for consent, quota, daily cap. All from the member's row."""

from datetime import datetime
from typing import Final

from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from annotation.errors import Blocked
from annotation.models import Member

WITHDRAWN: Final = "withdrawn"
PAUSED: Final = "paused"
CONSENT: Final = "consent"
TEST_FAILED: Final = "test_failed"
QUOTA: Final = "quota"
DAILY_CAP: Final = "daily_cap"
REASONS: Final = {
    WITHDRAWN: _("You have withdrawn from this project. Only you can take part again."),
    PAUSED: _("Your work in this project is paused; a manager of the project can tell you more."),
    CONSENT: _("Before the first task, please read the project's text and say whether you agree."),
    TEST_FAILED: _("The test at the start was not passed; a manager of the project can tell you more."),
    QUOTA: _("You have given all the answers that were asked of you here. Thank you."),
    DAILY_CAP: _("You have given all the answers of one day. There is more tomorrow."),
}


def why_not(member: Member, *, holding: int, now: datetime) -> str | None:
    """The reason why this member may not take another comparison beside the `holding` ones, or None."""
    if (refused := refusal(member)) is not None:
        return refused
    quota = member.quota if member.quota is not None else member.project.quota
    if quota is not None and member.answered + holding >= quota:
        return QUOTA
    cap = member.daily_cap if member.daily_cap is not None else member.project.daily_cap
    if cap is not None and answered_today(member, now=now) + holding >= cap:
        return DAILY_CAP
    return None


def refusal(member: Member) -> str | None:
    """Why this member may not even go on with what they hold, or None."""
    if member.withdrawn_at is not None:
        return WITHDRAWN
    if member.paused_at is not None:
        return PAUSED
    return CONSENT if member.consented_version < member.project.consent_version else None


def check_allowed(member: Member) -> None:
    """Raise `Blocked` unless this member may work here at all."""
    if (refused := refusal(member)) is not None:
        raise Blocked(str(REASONS[refused]), code=refused)


def check_not_stopped(member: Member) -> None:
    """Raise `Blocked` for a member who was paused or withdrew; what they hold went back to others."""
    if (refused := refusal(member)) in (WITHDRAWN, PAUSED):
        raise Blocked(str(REASONS[refused]), code=refused)


def answered_today(member: Member, *, now: datetime) -> int:
    return member.answered_that_day if member.answered_on == timezone.localdate(now) else 0


def count(member: Member, *, now: datetime) -> None:
    """One answer more for the (locked) member's limits. Does not save."""
    member.answered += 1
    member.answered_that_day = answered_today(member, now=now) + 1
    member.answered_on = timezone.localdate(now)


def uncount(member: Member, answered_at: datetime) -> None:
    """The (locked) member took an answer of that time back."""
    member.answered = max(0, member.answered - 1)
    if timezone.localdate(answered_at) == member.answered_on:
        member.answered_that_day = max(0, member.answered_that_day - 1)
    member.save(update_fields=["answered", "answered_that_day"])
