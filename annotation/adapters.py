"""How django-allauth is used: no registration, single sign-on, and secrets of the second factor encrypted."""

import base64
import hashlib
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from cryptography.fernet import Fernet
from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone

from annotation import services
from annotation.errors import NotFound

INVITATION_KEY = "invitation"  # in the session: whose link this browser opened


class AccountAdapter(DefaultAccountAdapter):
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Accounts are made from invitations, by `annotation.services.join`."""
        return False

    def add_message(self, request: HttpRequest, level: int, *args: Any, **kwargs: Any) -> None:
        """That one is signed in is plain to see."""
        template = kwargs.get("message_template") or (args[0] if args else None)
        if template != "account/messages/logged_in.txt":
            super().add_message(request, level, *args, **kwargs)


class SocialAccountAdapter(DefaultSocialAccountAdapter):
    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        """Single sign-on makes an account for a person who holds an invitation, and for nobody else."""
        secret = request.session.get(INVITATION_KEY, "")
        try:
            services.find_invitation(secret=secret, now=timezone.now())
        except NotFound:
            return False
        return True


class MFAAdapter(DefaultMFAAdapter):
    """A copy of the database alone gives nobody the second factor."""

    def encrypt(self, text: str) -> str:
        return _fernet().encrypt(text.encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        return _fernet().decrypt(encrypted_text.encode()).decode()


def _fernet() -> Fernet:
    key = hashlib.sha256(b"second factor:" + settings.SECRET_KEY.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(key))
