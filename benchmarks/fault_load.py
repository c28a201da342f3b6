"""What goes on while things break: people who judge and do not give up, and runs that are asked for."""

import hashlib
import http.client
import random
import tempfile
import threading
import time
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotation.client import ApiError, Client

PAUSE = 0.3  # seconds before somebody who got no answer asks again
LOST_LINE = (OSError, http.client.HTTPException)
WEIGHTS = ("adapter_model.safetensors", "weights.txt")


@dataclass
class Accepted:
    """A judgement for which the site said that it stored it."""

    judgement: int
    lease: str
    choice: int


@dataclass
class Judged:
    """What one annotator saw. `sent` are the client ids that were ever sent."""

    accepted: dict[str, Accepted] = field(default_factory=dict)
    sent: set[str] = field(default_factory=set)
    refused: int = 0  # leases that had run out
    unanswered: int = 0  # requests without an answer, each then repeated


class Annotator(threading.Thread):
    """Judges until told to end; repeats what got no answer under its own client id, as the page does."""

    def __init__(self, url: str, token: str, project: int, *, seed: int, pace: float) -> None:
        super().__init__(name=f"annotator {seed}", daemon=True)
        self.seen = Judged()
        self.over = threading.Event()
        self.error: BaseException | None = None
        self._url, self._token, self._project, self._pace = url, token, project, pace
        self._rng = random.Random(seed)

    def run(self) -> None:
        try:
            while not self.over.is_set():
                shown = self._insist(lambda client: client.next(self._project))
                if shown is None:  # all that is left is in others' hands
                    self.over.wait(PAUSE)
                    continue
                self._judge(shown["lease"], len(shown["candidates"]))
                self.over.wait(self._pace * self._rng.random() * 2)
        except BaseException as error:
            self.error = error
            raise

    def _judge(self, lease: str, candidates: int) -> None:
        client_id = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        choice = self._rng.randrange(candidates)
        self.seen.sent.add(client_id)
        try:
            stored = self._insist(
                lambda client: client.judge(lease, {"choice": choice, "strength": 2}, client_id=client_id)
            )
        except ApiError as error:
            if error.status != 409:
                raise
            self.seen.refused += 1
        else:
            self.seen.accepted[client_id] = Accepted(stored["judgement"], lease, choice)

    def _insist(self, ask: Callable[[Client], Any]) -> Any:
        """The answer, however long it takes."""
        while True:
            try:
                with Client(self._url, self._token, timeout=20) as client:
                    return ask(client)
            except LOST_LINE:
                self.seen.unanswered += 1
            except ApiError as error:
                if error.status < 500:
                    raise
                self.seen.unanswered += 1
            time.sleep(PAUSE)


class Feeder(threading.Thread):
    """Keeps some runs waiting or under way. A request without an answer is not repeated: what it made ends
    like the others."""

    def __init__(self, url: str, token: str, body: dict[str, Any], *, at_once: int, most: int | None) -> None:
        super().__init__(name="feeder", daemon=True)
        self.asked: list[int] = []
        self.over = threading.Event()
        self.error: BaseException | None = None
        self._url, self._token, self._body, self._at_once, self._most = url, token, body, at_once, most

    def run(self) -> None:
        try:
            while not self.over.wait(PAUSE):
                try:
                    self._look()
                except LOST_LINE:
                    continue
                except ApiError as error:
                    if error.status < 500:
                        raise
        except BaseException as error:
            self.error = error
            raise

    def _look(self) -> None:
        with Client(self._url, self._token, timeout=20) as client:
            waiting = sum(client.run(number)["status"] not in ENDED for number in self.asked[-8:])
            if waiting < self._at_once and (self._most is None or len(self.asked) < self._most):
                self.asked.append(client.start_run(**self._body)["id"])


ENDED = ("done", "failed", "cancelled")


def weights_digest(client: Client, checkpoint: int) -> str:
    """SHA-256 of the trained weights in a checkpoint's zip."""
    with tempfile.TemporaryDirectory() as folder:
        path = client.checkpoint(checkpoint, Path(folder) / "result.zip")
        with zipfile.ZipFile(path) as result:
            name = next(name for name in WEIGHTS if name in result.namelist())
            return hashlib.sha256(result.read(name)).hexdigest()
