"""Child processes that never outlive their parent, and services that are started again when they die."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a service that died is started again
STEADY_AFTER = 60.0  # seconds of life after which an earlier death no longer counts
LOG_LIMIT = 10 * 1024 * 1024  # bytes; a larger log is set aside as .log.1 at the next start


def die_with_parent(number: signal.Signals = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Ask the kernel (Linux; elsewhere nothing) to signal this process when the thread that forked it ends.

    `parent` is the expected parent: if it is gone already, the process ends itself.
    """
    if _libc is None:
        return
    if _libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def dies_with_me(number: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """A `preexec_fn` for subprocess.Popen."""
    parent = os.getpid()
    return lambda: die_with_parent(number, parent=parent)


@dataclass
class Service:
    """One program of the site. The process that runs it changes; its name, command and log stay."""

    name: str
    command: Sequence[str]
    log: Path
    where: str  # for people: an address or a queue
    environment: Mapping[str, str]
    grace: float = 10.0  # seconds between SIGTERM and SIGKILL
    pass_fds: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0  # monotonic seconds
    pause: float = FIRST_PAUSE
    restart_at: float | None = field(default=None)

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def start(self) -> None:
        """Start it in a session of its own, so that a Ctrl-C reaches only the supervisor."""
        set_aside(self.log)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self.environment,
                pass_fds=self.pass_fds,
                start_new_session=True,
                preexec_fn=dies_with_me(),
            )
        self.started_at = time.monotonic()
        self.restart_at = None

    def died(self) -> str | None:
        """How the process ended, once, when it did; its restart is then due at `restart_at`."""
        if self.restart_at is not None or self.process is None or not has_ended(self.process):
            return None
        end_group(self.process)  # what it left behind would compete with its successor
        now = time.monotonic()
        if now - self.started_at > STEADY_AFTER:
            self.pause = FIRST_PAUSE
        self.restart_at = now + self.pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE)
        return describe_exit(self.process.returncode)

    def request_stop(self) -> None:
        if self.process and not has_ended(self.process):
            self.process.terminate()

    def finish(self, *, deadline: Callable[[], float]) -> None:
        """Wait until it has ended, by force at the deadline (monotonic seconds, which may draw nearer)."""
        if self.process is None:
            return
        while not has_ended(self.process) and time.monotonic() < deadline():
            time.sleep(0.02)
        end_group(self.process)


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether it has ended; its pid stays reserved until `end_group`, so that it can mean nobody else."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads its group, and the rest of the group, by force; and collect its exit code."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was ended by {signal.Signals(-code).name}"


def set_aside(log: Path) -> None:
    """Begin a new log when the old one is large; one older is kept."""
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.rename(log.with_name(log.name + ".1"))


def end_of(log: Path, *, lines: int = 12) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""
