"""People and scripts: accounts, API tokens, one-time links, and signing in with a password."""

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

import sesame.utils
from django.contrib.auth import authenticate
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.urls import reverse
from django.utils.translation import gettext as _

from annotation.errors import Invalid, TooMany
from annotation.models import ApiToken, FailedSignIn, Project, User
from annotation.permissions import Scope
from annotation.services import limits
from annotation.services.statements import columns, fetch, instance_of

SIGN_IN_WINDOW: Final = timedelta(minutes=15)
SIGN_IN_TRIES_PER_NAME: Final = 10
SIGN_IN_TRIES_PER_ADDRESS: Final = 100
FIND_TOKEN: Final = f"""
SELECT {columns(ApiToken, "t")}, {columns(User, "u")}
FROM annotation_apitoken t JOIN annotation_user u ON u.id = t.user_id
WHERE t.digest = %(digest)s AND u.is_active AND (t.expires_at IS NULL OR t.expires_at > %(now)s)
"""  # noqa: S608  names of ours


def create_user(*, username: str, role: str, password: str | None = None) -> User:
    """A user who may sign in; without a password only by one-time link or with a token."""
    user = User(username=username, role=role)
    try:
        if password is not None:
            validate_password(password, user)
        user.set_password(password)
        user.full_clean()
    except ValidationError as error:
        raise Invalid(_messages(error)) from error
    try:
        with transaction.atomic():
            user.save()
    except IntegrityError as error:
        raise Invalid({"username": _("The name %(username)r is taken.") % {"username": username}}) from error
    return user


def _messages(error: ValidationError) -> dict[str, str]:
    if hasattr(error, "error_dict"):
        return {name: " ".join(messages) for name, messages in error.message_dict.items()}
    return {"password": " ".join(error.messages)}


def find_token(secret: str, *, now: datetime) -> ApiToken | None:
    """A token that is good at this moment, with its user. Asked with every call of the API."""
    rows = fetch(FIND_TOKEN, {"digest": digest_of_token(secret), "now": now})
    if not rows:
        return None
    of_token = len(ApiToken._meta.concrete_fields)
    token = instance_of(ApiToken, rows[0][:of_token])
    token.user = instance_of(User, rows[0][of_token:])
    return token


def issue_token(
    *,
    user: User,
    scopes: Iterable[str] = tuple(Scope.values),
    project: Project | None = None,
    expires_at: datetime | None = None,
    name: str = "",
) -> str:
    """A new API token. It is returned once; only its digest is stored."""
    wanted = sorted(set(scopes))
    if not wanted or set(wanted) - set(Scope.values):
        raise Invalid({"scopes": _("must be some of %(names)s.") % {"names": ", ".join(Scope.values)}})
    token = secrets.token_urlsafe(32)
    values = {"scopes": wanted, "project": project, "expires_at": expires_at, "name": name}
    ApiToken.objects.create(user=user, digest=digest_of_token(token), **values)
    return token


def revoke_token(*, token: ApiToken) -> None:
    """It stops working at once."""
    token.delete()


def digest_of_token(token: str) -> str:
    """Plain SHA-256 is enough: a token has 256 random bits, so there is nothing to guess."""
    return hashlib.sha256(token.encode()).hexdigest()


def sign_in_link(*, user: User, base_url: str) -> str:
    """A link that signs this user in once, within a day."""
    path = reverse("annotation:link")
    return base_url.rstrip("/") + path + sesame.utils.get_query_string(user)


def sign_in(*, username: str, password: str, address: str, now: datetime) -> User | None:
    """The user if the password is right, else None. Raises `TooMany` after too many wrong ones."""
    keys = {
        limits.keyed("name", username.lower()): SIGN_IN_TRIES_PER_NAME,
        limits.keyed("address", address): SIGN_IN_TRIES_PER_ADDRESS,
    }
    since = now - SIGN_IN_WINDOW
    for key, limit in keys.items():
        if FailedSignIn.objects.filter(key=key, created_at__gte=since).count() >= limit:
            wait = int(SIGN_IN_WINDOW.total_seconds())
            raise TooMany(
                _("Too many wrong passwords. Wait 15 minutes, or ask for a one-time link."), wait=wait
            )
    user = authenticate(username=username, password=password)
    if user is None:
        FailedSignIn.objects.bulk_create(FailedSignIn(key=key, created_at=now) for key in keys)
        FailedSignIn.objects.filter(created_at__lt=since).delete()
        return None
    FailedSignIn.objects.filter(key=limits.keyed("name", username.lower())).delete()
    assert isinstance(user, User)
    return user
