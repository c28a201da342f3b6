"""The end that a worker holds of ``training.tuning.warm``, which forks a process for each run. Torch-free."""

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

logger = logging.getLogger(__name__)
PATIENCE = 10.0  # seconds for a fork


class Warm:
    """The process, as far as it is there and ready. For one thread at a time."""

    def __init__(self, environment: Mapping[str, str], *, modules: Sequence[str] = ()) -> None:
        self._environment = dict(environment)
        self._owner = os.getpid()
        self._line, theirs = socket.socketpair()
        self._heard = b""
        self._ready = self._gone = False
        self._forked: list[int] = []
        self._codes: dict[int, int] = {}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "training.tuning.warm", *modules],
                env=self._environment,
                stdin=theirs.fileno(),
                start_new_session=True,
            )

    @property
    def is_gone(self) -> bool:
        """Whether it has ended."""
        self._listen(0)
        return self._gone

    def serves(self, environment: Mapping[str, str]) -> bool:
        """Whether it has loaded everything, in this environment: libraries read theirs only once."""
        if os.getpid() != self._owner or dict(environment) != self._environment:
            return False
        return not self.is_gone and self._ready

    def fork(self, folder: Path, output: Path) -> "Forked | None":
        """A process that trains in the folder; None if it does not answer, which ends it."""
        deadline = time.monotonic() + PATIENCE
        try:
            request = {"folder": str(folder), "output": str(output)}
            self._line.sendall(json.dumps(request).encode() + b"\n")
            while not self._gone and time.monotonic() < deadline:
                self._listen(deadline - time.monotonic())
                if self._forked:
                    return Forked(self, self._forked.pop())
        except OSError as error:
            logger.warning("the process that starts runs is gone: %s", error)
        self.close()
        return None

    def code_of(self, pid: int, *, within: float) -> int | None:
        """The exit code of a process that was forked; None if it still runs after so many seconds."""
        deadline = time.monotonic() + within
        while pid not in self._codes and not self._gone:
            left = deadline - time.monotonic()
            self._listen(max(0.0, left))
            if left <= 0 and pid not in self._codes and not self._gone:
                return None
        # What it forked dies with it.
        return self._codes.get(pid, -signal.SIGKILL)

    def close(self) -> None:
        """End the process, and whatever it forked."""
        self._gone = True
        self._process.kill()
        self._process.wait()
        self._line.close()

    def _listen(self, within: float) -> None:
        """Take in what it says within so many seconds, as soon as it says something."""
        if self._gone or not select.select([self._line], [], [], within)[0]:
            return
        try:
            said = self._line.recv(65536)
        except OSError:
            said = b""
        if not said:
            self.close()
            return
        *whole, self._heard = (self._heard + said).split(b"\n")
        for message in map(json.loads, whole):
            if "code" in message:
                self._codes[message["pid"]] = message["code"]
            elif "pid" in message:
                self._forked.append(message["pid"])
            else:
                self._ready = True


class Forked:
    """A process that was forked for a run; to the worker what ``subprocess.Popen`` is."""

    def __init__(self, warm: Warm, pid: int) -> None:
        self.pid = pid
        self._warm = warm

    def wait(self, timeout: float) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""
        code = self._warm.code_of(self.pid, within=timeout)
        if code is None:
            raise subprocess.TimeoutExpired("training.tuning", timeout)
        return code
