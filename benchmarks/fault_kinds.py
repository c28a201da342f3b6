"""What can break on a running site, done to real processes and files."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from webapp.embedded.broker import clear_messages
from webapp.embedded.postgres import socket_folder
from webapp.embedded.processes import has_ended
from webapp.embedded.supervisor import Supervisor

TRAINERS = ("training.tuning", "fake_trainer.py")
TMPFS = "128m"
AS_AFTER_A_STEP = (
    """UPDATE training_run SET heartbeat_at = heartbeat_at - make_interval(hours => %s),
       progress_at = heartbeat_at WHERE status = 'running'""",
    "UPDATE annotation_lease SET expires_at = expires_at - make_interval(hours => %s) WHERE state = 'open'",
)


class Eyes:
    """Looks at the site's own database from beside it; asks again while it is away."""

    def __init__(self, data: Path) -> None:
        self._where = {"host": str(socket_folder(data)), "user": "tiebreak", "dbname": "tiebreak"}

    def ask(self, query: str, *values: Any, patience: float = 240) -> list[tuple[Any, ...]]:
        deadline = time.monotonic() + patience
        while True:
            try:
                with psycopg.connect(**self._where, autocommit=True, connect_timeout=5) as connection:
                    cursor = connection.execute(query, values)
                    return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def number(self, query: str, *values: Any) -> int:
        return int(self.ask(query, *values)[0][0])


class Site:
    """The processes of a supervisor, by name. Each is looked up when it is wanted."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def service(self, name: str) -> int | None:
        for service in self.supervisor.services:
            if service.name == name and service.process and not has_ended(service.process):
                return service.process.pid
        return None

    def postgres(self) -> int | None:
        server = self.supervisor.postgres
        process = server.process if server else None
        return process.pid if process and not has_ended(process) else None

    def child_of(self, name: str, rng: random.Random) -> int | None:
        parent = self.service(name)
        found = sorted(children_of(parent)) if parent else []
        return rng.choice(found) if found else None

    def trainer(self, rng: random.Random) -> int | None:
        workers = [service.pid for service in self.supervisor.services if "worker-cpu" in service.name]
        found = [child for worker in workers if worker for child in children_of(worker) if trains(child)]
        return rng.choice(sorted(found)) if found else None


def children_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, of = stat.read_text().rpartition(")")[2].split()[:2]
            if int(of) == parent and state != "Z":
                found.append(int(stat.parent.name))
    return found


def trains(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return any(name in command for name in TRAINERS)


class Faults:
    """All of them for one site, each by its name. `done` counts those that hit something."""

    def __init__(self, site: Site, eyes: Eyes, rng: random.Random, *, data: Path, stale: float) -> None:
        self.site, self.eyes, self.rng, self.data, self.stale = site, eyes, rng, data, stale
        self.done: Counter[str] = Counter()
        self.messages_lost = 0
        self.kept: list[str] = []  # runs that a hung worker kept from the other
        self.disk: Path | None = None  # a small disk of its own for the workers, where there may be one

    @property
    def kinds(self) -> dict[str, Callable[[], bool]]:
        """What may be done here, by name."""
        kills: dict[str, Callable[[], int | None]] = {
            "web": lambda: self.site.service("web"),
            "a web process": lambda: self.site.child_of("web", self.rng),
            "light worker 0": lambda: self.site.service("worker-light-0"),
            "light worker 1": lambda: self.site.service("worker-light-1"),
            "run worker 0": lambda: self.site.service("worker-cpu-0"),
            "run worker 1": lambda: self.site.service("worker-cpu-1"),
            "a trainer": lambda: self.site.trainer(self.rng),
            "the scheduler": lambda: self.site.service("scheduler"),
            "Postgres": self.site.postgres,
        }
        found = {f"SIGKILL of {name}": lambda find=find: self.kill(find) for name, find in kills.items()}
        found["a run worker hangs"] = self.hang
        found["the broker loses every message"] = self.lose_messages
        if self.disk:
            found["the workers' disk is full"] = self.fill_disk
        found["every clock is set an hour forward"] = lambda: self.step_clock(1)
        found["every clock is set an hour back"] = lambda: self.step_clock(-1)
        return found

    def do(self, name: str) -> bool:
        happened = self.kinds[name]()
        print(time.strftime("%H:%M:%S"), name if happened else f"({name}: not there)", file=sys.stderr)
        self.done[name] += happened
        return happened

    def kill(self, find: Callable[[], int | None]) -> bool:
        pid = find()
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def hang(self) -> bool:
        """SIGSTOP a run worker until its run was given to the other (or for long enough); then SIGCONT."""
        workers = [pid for number in (0, 1) if (pid := self.site.service(f"worker-cpu-{number}"))]
        if not workers:
            return False
        pid = self.rng.choice(workers)
        mine = self.eyes.ask(
            "SELECT id, attempt FROM training_run WHERE status = 'running' AND worker LIKE %s", f"%:{pid}"
        )
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            return False
        deadline = time.monotonic() + 12 * self.stale
        held = "SELECT 1 FROM training_run WHERE id = %s AND attempt = %s AND status = 'running'"
        while mine and self.eyes.ask(held, *mine[0]):
            if time.monotonic() > deadline:
                self.kept.append(f"run {mine[0][0]} was kept by a hung worker for {12 * self.stale:.0f} s.")
                break
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        return True

    def lose_messages(self, least: int = 10) -> bool:
        """Delete what anybody sends, at once, until that many messages were lost."""
        lost, deadline = 0, time.monotonic() + 60
        while lost < least and time.monotonic() < deadline:
            lost += clear_messages(self.data / "broker")
            time.sleep(0.001)
        self.messages_lost += lost
        return lost >= least

    def fill_disk(self, seconds: float = 6) -> bool:
        assert self.disk
        with ballast(self.disk):
            time.sleep(seconds)
        return True

    def step_clock(self, hours: int) -> bool:
        """Give what is going on the times that it would seem to have, had all clocks been set by so much."""
        for statement in AS_AFTER_A_STEP:
            self.eyes.ask(statement, hours)
        return True


@contextlib.contextmanager
def ballast(folder: Path) -> Iterator[None]:
    """A file that takes all the room, and takes more of it as others make some."""
    file, over = folder / "ballast", threading.Event()

    def fill() -> None:
        with file.open("ab", buffering=0) as handle:
            while not over.is_set():
                try:
                    handle.write(b"\0" * 65536)
                except OSError:
                    over.wait(0.02)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        file.unlink()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Whether a disk of a few megabytes could be had at this place, which takes a right to mount."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS},mode=0755", "tmpfs", str(folder)]
    mounted = os.getuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
