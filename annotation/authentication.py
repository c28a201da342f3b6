"""API tokens: `Authorization: Token …` or `Bearer …`."""

from datetime import timedelta
from typing import Final

from django.utils import timezone
from django.utils.translation import gettext
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from annotation.models import ApiToken, User
from annotation.services.accounts import find_token

NOTICE_EVERY: Final = timedelta(minutes=1)  # so that not every call writes


class TokenAuthentication(BaseAuthentication):
    """Finds the user by the digest of the token; other schemes are left to others."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _, credentials = get_authorization_header(request).partition(b" ")
        if scheme.lower() not in (b"token", b"bearer"):
            return None
        now = timezone.now()
        token = find_token(credentials.strip().decode("latin-1"), now=now)
        if token is None:
            raise AuthenticationFailed(
                gettext("The token is not valid (any more); make one under “API tokens”.")
            )
        if token.last_used_at is None or now - token.last_used_at >= NOTICE_EVERY:
            ApiToken.objects.filter(pk=token.pk).update(last_used_at=now)
        token.user.token = token
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return "Token"


class TokenScheme(OpenApiAuthenticationExtension):
    target_class = TokenAuthentication
    name = "token"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "Bearer or Token, then the token."}
