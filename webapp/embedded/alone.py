"""The embedded database for a command that needs nothing else of the site."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from webapp.embedded.postgres import Postgres, PostgresError
from webapp.embedded.supervisor import SupervisorError, take_lock


@contextmanager
def database_at_hand(data_dir: Path, *, alone: bool) -> Iterator[None]:
    """A running database: that of DATABASE_URL, of a running site, or one that is started for this block.

    `alone`: not that of a running site. Raises SupervisorError.
    """
    if os.environ.get("DATABASE_URL"):
        yield
        return
    data_dir.mkdir(parents=True, exist_ok=True)
    server = Postgres(data_dir)
    if not alone and server.socket.exists() and server.is_ready():
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(take_lock(data_dir))
        try:
            server.prepare()
            server.stop_orphan()
            server.start()
        except PostgresError as error:
            raise SupervisorError(str(error)) from error
        stack.callback(server.stop)
        yield
