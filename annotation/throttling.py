"""Rate limits of the API: for each user, or for each address of those who did not say who they are."""

from typing import TYPE_CHECKING, ClassVar

from django.conf import settings
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from annotation.services import limits

if TYPE_CHECKING:
    from rest_framework.views import APIView


class ApiThrottle(BaseThrottle):
    """`RATE_LIMITS["api"]`. All tokens and sessions of a user count together."""

    what: ClassVar[str] = "api"

    def allow_request(self, request: Request, view: "APIView") -> bool:
        rate = settings.RATE_LIMITS[self.what]
        if rate is None:
            return True
        who = f"user {request.user.pk}" if request.user.is_authenticated else self.get_ident(request)
        counted = limits.count(what=self.what, who=who, rate=limits.Rate(*rate))
        self.seconds_left = counted.wait
        return counted.is_within

    def wait(self) -> float:
        return self.seconds_left


class JudgingThrottle(ApiThrottle):
    """`RATE_LIMITS["judging"]`: taking comparisons and answering them, more than anybody can do by hand."""

    what = "judging"
