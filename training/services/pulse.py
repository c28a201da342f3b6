"""The heartbeat of an attempt, in its own thread: uploads and slow disks must not make a worker look dead."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType

from django.db import connection
from django.db.models.functions import Now

from annotation.log_context import working_on
from training.models import Run
from training.services.recording import LONGEST_WAIT, OUTAGES

logger = logging.getLogger(__name__)
BEAT_EVERY = 2.0  # seconds


class Pulse:
    """Beats by the database's clock while its block runs; sees that the run was taken away or cancelled.

    `on_given_up` is called in the thread, at once: a trainer of a run that is another's must stop.
    """

    def __init__(self, run: Run, *, on_given_up: Callable[[], None]) -> None:
        self.given_up = threading.Event()
        self.cancel_asked = threading.Event()
        self._run = run
        self._on_given_up = on_given_up
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name=f"pulse of run {run.pk}", daemon=True)

    def __enter__(self) -> "Pulse":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _beat_on(self) -> None:
        with working_on(run_id=self._run.pk):  # a thread begins without ids
            self._beat_until_over()

    def _beat_until_over(self) -> None:
        wait = 0.0
        try:
            while not self._over.wait(wait) and not self.given_up.is_set():
                try:
                    self._beat()
                    wait = BEAT_EVERY
                except OUTAGES as error:
                    logger.warning(
                        "run %s: no heartbeat: %s", self._run.pk, str(error).strip().split("\n")[0]
                    )
                    connection.close()
                    wait = min(max(0.2, 2 * wait), LONGEST_WAIT)
        finally:
            connection.close()

    def _beat(self) -> None:
        mine = Run.objects.held_by(self._run)
        if not mine.update(heartbeat_at=Now()):
            # Ended by this attempt itself, perhaps; then nobody looks at the event any more.
            self.given_up.set()
            self._on_given_up()
        elif mine.filter(cancel_requested_at__isnull=False).exists():
            self.cancel_asked.set()
