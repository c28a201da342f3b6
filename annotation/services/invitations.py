"""Invitations: a link that makes one person a member, and an account for those who have none."""

import secrets
from datetime import datetime, timedelta
from typing import Final

from django.db import transaction
from django.urls import reverse
from django.utils.translation import gettext as _

from annotation.errors import Conflict, Invalid, NotFound
from annotation.models import Invitation, Member, Project, User
from annotation.permissions import Role, SiteRole
from annotation.services import accounts
from annotation.services.projects import check_may_give

VALID_FOR: Final = timedelta(days=7)


def invite(*, project: Project, role: str, by: User, now: datetime, note: str = "") -> tuple[Invitation, str]:
    """A new invitation and its secret, which is returned once. Only owners invite owners."""
    if role not in Role.values:
        raise Invalid({"role": _("%(role)s is no role; use %(roles)s.") % _named(role)})
    if len(note) > 100:
        raise Invalid({"note": _("must have 100 characters at most.")})
    check_may_give(project, role, by=by)
    secret = secrets.token_urlsafe(32)
    digest = accounts.digest_of_token(secret)
    values = {"role": role, "note": note, "created_by": by, "expires_at": now + VALID_FOR}
    return Invitation.objects.create(project=project, digest=digest, **values), secret


def _named(role: str) -> dict[str, str]:
    return {"role": repr(role), "roles": ", ".join(Role.values)}


def invitation_link(*, secret: str, base_url: str) -> str:
    """What the invited person opens."""
    return base_url.rstrip("/") + reverse("annotation:invitation", args=[secret])


def find_invitation(*, secret: str, now: datetime) -> Invitation:
    """The invitation that a link names. `NotFound` if it was used, is too old, or was taken back."""
    standing = Invitation.objects.standing(now=now).select_related("project", "created_by")
    found = standing.filter(digest=accounts.digest_of_token(secret)).first()
    if found is None:
        raise NotFound(_("This invitation was used already, is too old, or was taken back; ask for another."))
    return found


@transaction.atomic
def accept_invitation(*, secret: str, user: User, now: datetime) -> Member:
    """Make this person a member. The invitation is spent; nobody's present role is changed."""
    found = find_invitation(secret=secret, now=now)
    locked = Invitation.objects.select_for_update(no_key=True).get(pk=found.pk)
    if locked.used_at is not None:
        raise NotFound(_("Somebody has just used this invitation; ask for another."))
    member, created = Member.objects.get_or_create(
        project=found.project, user=user, defaults={"role": found.role}
    )
    if not created:
        raise Conflict(_("You are in this project already; the invitation stays for somebody else."))
    locked.used_at, locked.used_by = now, user
    locked.save(update_fields=["used_at", "used_by"])
    return member


@transaction.atomic
def join(*, secret: str, username: str, password: str | None, now: datetime) -> User:
    """A new account for an invited person, who is a member at once. `Invalid` for a bad name or password."""
    find_invitation(secret=secret, now=now)
    user = accounts.create_user(username=username, role=SiteRole.ANNOTATOR, password=password)
    accept_invitation(secret=secret, user=user, now=now)
    return user


def revoke_invitation(*, invitation: Invitation) -> None:
    """Take back what nobody has used yet."""
    if not Invitation.objects.filter(pk=invitation.pk, used_at=None).delete()[0]:
        raise Conflict(_("Somebody has used this invitation already; remove the member instead."))
