"""Tells the database who is at work, for the audit entries that its triggers write."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse

from annotation.models import User

# New judgements are not audited: the row says who gave it.
_WRITES: Final = (
    *(
        f'INSERT INTO "{table}"'
        for table in ("annotation_project", "annotation_member", "training_hubupload")
    ),
    *(f'UPDATE "annotation_{table}"' for table in ("project", "member", "judgement")),
    *(f'DELETE FROM "annotation_{table}"' for table in ("project", "member", "judgement")),  # noqa: S608
)
_NAME_ACTOR: Final = "SELECT set_config('tiebreak.actor', %s, true)"


@contextmanager
def acting(who: Callable[[], int | None]) -> Iterator[None]:
    """Within, writes to audited tables carry the id that `who` gives, asked only when one happens.

    The setting is made in the transaction of the write and ends with it, so that it never reaches the next
    request on a connection.
    """

    def announce(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if not sql.startswith(_WRITES):
            return execute(sql, params, many, context)
        with transaction.atomic(savepoint=False):
            with context["connection"].cursor() as cursor:
                cursor.execute(_NAME_ACTOR, [str(who() or "")])
            return execute(sql, params, many, context)

    with connection.execute_wrapper(announce):
        yield


class AuditMiddleware:
    """Names the person behind a request, whether they came with a session or a token."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        def who() -> int | None:
            return request.user.pk if isinstance(request.user, User) else None

        with acting(who):
            return self.get_response(request)
