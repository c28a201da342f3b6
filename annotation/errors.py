"""What the services refuse, in sentences for the person who asked.

The edges translate: the API into problem details (`annotation.problems`), the pages into form errors.
`NotFound` and `NotAllowed` are also what Django answers with its pages 404 and 403.
"""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404


class ServiceError(Exception):
    """Base of every refusal; `str(error)` says what is wrong and what to do."""


class Invalid(ServiceError):
    """The request does not fit. `errors` maps a field path ("choice", "questions.0.type") to a message."""

    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__(" ".join(errors.values()))
        self.errors = errors


class NotFound(ServiceError, Http404):
    """It does not exist, or this person may not know that it does."""


class NotAllowed(ServiceError, PermissionDenied):
    """The person may see it, but their role does not let them do this."""


class Blocked(NotAllowed):
    """They may not work here now. `code` says why, for scripts: see `annotation.services.eligibility`."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class Conflict(ServiceError):
    """The world has moved on. `answer` is the refused answer, so that no work is lost."""

    def __init__(self, message: str, *, answer: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.answer = answer


class TooMany(ServiceError):
    """Tried too often; `wait` is in seconds."""

    def __init__(self, message: str, *, wait: int) -> None:
        super().__init__(message)
        self.wait = wait


class QueueBusy(ServiceError):
    """The queue stayed locked by others for longer than a request should wait; try again."""
