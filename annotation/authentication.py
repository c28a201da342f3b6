"""API tokens: `Authorization: Token …` or `Bearer …`."""

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from annotation.models import User
from annotation.services.accounts import digest_of_token


class TokenAuthentication(BaseAuthentication):
    """Finds the user by the digest of the token; other schemes are left to others."""

    def authenticate(self, request: Request) -> tuple[User, str] | None:
        scheme, _, credentials = get_authorization_header(request).partition(b" ")
        if scheme.lower() not in (b"token", b"bearer"):
            return None
        digest = digest_of_token(credentials.strip().decode("latin-1"))
        user = User.objects.filter(api_tokens__digest=digest, is_active=True).first()
        if user is None:
            raise AuthenticationFailed(
                "The token is not valid; `manage.py create_user NAME --token` makes one."
            )
        return user, digest

    def authenticate_header(self, request: Request) -> str:
        return "Token"


class TokenScheme(OpenApiAuthenticationExtension):
    target_class = TokenAuthentication
    name = "token"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "Bearer or Token, then the token."}
