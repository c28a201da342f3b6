"""What judging needs of the database connection beyond Django's backend."""

import select
from datetime import timedelta
from types import TracebackType
from typing import Any

from django.conf import settings
from django.db import OperationalError, connection
from django.db.backends.postgresql import base
from django.db.utils import DatabaseErrorWrapper
from django.utils.functional import cached_property
from psycopg.errors import IdleInTransactionSessionTimeout
from psycopg.types.datetime import TimestamptzLoader

PREPARE_AFTER = 3  # runs of a statement on one connection


def limit_silence(to: timedelta | None) -> None:
    """Have Postgres end this transaction, and free what it locks, once it has been silent for so long: its
    process stands still, or its machine is gone. None for no limit. Holds until the transaction ends.
    """
    milliseconds = 0 if to is None else max(1, round(to.total_seconds() * 1000))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('idle_in_transaction_session_timeout', %s, true)", [str(milliseconds)]
        )


class DatabaseWrapper(base.DatabaseWrapper):
    """Statements that are planned once for each connection, and a health check that costs no round trip."""

    _prepared: Any = None

    def get_connection_params(self) -> dict[str, Any]:
        """Django's own cursors bind on the client and never prepare; see `prepared_cursor`.

        Behind a pooler in transaction mode, where the next transaction may meet another server process,
        nothing is prepared.
        """
        pooled = self.settings_dict["DISABLE_SERVER_SIDE_CURSORS"]
        return {**super().get_connection_params(), "prepare_threshold": None if pooled else PREPARE_AFTER}

    @property
    def queries_logged(self) -> bool:
        """As Django's own, which asks for DEBUG through the settings' proxy several times a statement."""
        return self.force_debug_cursor or self._debug

    @cached_property
    def _debug(self) -> bool:
        return bool(settings.DEBUG)

    @cached_property
    def wrap_database_errors(self) -> DatabaseErrorWrapper:
        return _Errors(self)

    def prepared_cursor(self) -> Any:
        """A cursor that binds its values on the server, so that psycopg prepares what it runs repeatedly.

        Each connection has one: read what a statement gives before the next one, and leave it open.
        """
        self.close_if_health_check_failed()
        self.ensure_connection()
        if self._prepared is None or self._prepared.connection is not self.connection:
            with self.wrap_database_errors:
                self._prepared = base.ServerBindingCursor(self.connection)  # type: ignore[call-arg]
            # psycopg's own reads times in C; Django's, which is there for other zones than UTC, in Python.
            self._prepared.adapters.register_loader("timestamptz", TimestamptzLoader)
        return self._prepare_cursor(self._prepared)  # type: ignore[attr-defined]

    def is_usable(self) -> bool:
        """A server that is gone has closed the connection, which is then ready to be read without a question.

        Django asks after an error too, and before a request; the server is asked only if there is a doubt.
        """
        if self.connection is None:
            return False
        return (not self.errors_occurred and self._is_silent()) or super().is_usable()

    def _is_silent(self) -> bool:
        if self.connection.closed:
            return False
        watch = select.poll()
        watch.register(self.connection.fileno(), select.POLLIN)  # errors and hang-ups are always told
        return not watch.poll(0)


class _Errors(DatabaseErrorWrapper):
    """psycopg's errors as Django's. A session that Postgres ended because it was silent is a lost connection
    to those who try again after an outage; psycopg calls it an internal error.
    """

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, IdleInTransactionSessionTimeout):
            self.wrapper.errors_occurred = True  # type: ignore[attr-defined]
            raise OperationalError(*error.args).with_traceback(trace) from error
        super().__exit__(kind, error, trace)
