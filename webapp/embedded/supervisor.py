"""One foreground process that runs the whole site: database, web, workers and scheduler.

`Supervisor` starts each service as a child that cannot outlive it, starts again what dies, and stops
everything in order: web, scheduler, workers, then the database. It needs no Django, so that the
`up` and `demo` commands and tests use it alike; what needs Django runs in child processes.
"""

import fcntl
import http.client
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from webapp.embedded.broker import clear_messages
from webapp.embedded.devices import DeviceError
from webapp.embedded.postgres import Postgres, PostgresError
from webapp.embedded.processes import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Service,
    describe_exit,
    dies_with_me,
    end_of,
    has_ended,
)
from webapp.embedded.services import STOP_ORDER, manage, plan_services

LOOK_EVERY = 0.2  # seconds
READY_WITHIN = 180.0  # seconds; an idle machine takes three


class SupervisorError(RuntimeError):
    """The site cannot be started; the message says what to do."""


def print_line(line: str) -> None:
    """To the terminal, if it is still there: the services have to be stopped without it, too."""
    with suppress(OSError):
        print(line, flush=True)


def take_lock(data_dir: Path) -> IO[str]:
    """One supervisor per data directory, until the file is closed. The kernel frees the lock however the
    process ends. Raises SupervisorError.
    """
    lock_file = (data_dir / "up.lock").open("a+")
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock_file.seek(0)
        pid = lock_file.read().strip() or "unknown"
        lock_file.close()
        raise SupervisorError(
            f"Tiebreak already runs in {data_dir} (pid {pid}). "
            f"Stop it first (Ctrl-C there, or `kill {pid}`), or choose another folder with --data."
        ) from None
    lock_file.truncate(0)
    lock_file.write(f"{os.getpid()}\n")
    lock_file.flush()
    return lock_file


class Supervisor:
    """The site of one data directory. `start()`, then `wait()`, then `stop()`; or `with Supervisor(…):`.

    Start it from a thread that lives as long as the site: the services die with the thread that started them.
    Port 0 takes any free port; `url` then names it.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 8000,
        host: str = "127.0.0.1",
        say: Callable[[str], None] = print_line,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.logs = self.data_dir / "logs"
        self.host, self.port = host, port
        self.say = say
        self.services: list[Service] = []
        self.postgres = None if os.environ.get("DATABASE_URL") else Postgres(self.data_dir)
        self.broker_folder = None if os.environ.get("CELERY_BROKER_URL") else self.data_dir / "broker"
        self._environment = os.environ | {
            "TIEBREAK_DATA": str(self.data_dir),
            "DJANGO_SETTINGS_MODULE": "webapp.settings",
            "PYTHONUNBUFFERED": "1",
        }
        self._lock_file: IO[str] | None = None
        self._listener: socket.socket | None = None
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._looking = threading.Lock()  # held while services are started or stopped
        self._stopping = False
        self._stop_requested = threading.Event()
        self._stopped = threading.Event()
        self._hurry = False
        self._postgres_pause = FIRST_PAUSE
        self._postgres_restart_at: float | None = None

    @property
    def url(self) -> str:
        host = "localhost" if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104  compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    # The three verbs

    def start(self) -> None:
        """Bring everything up and return when the site answers.

        Raises SupervisorError, and then leaves nothing running.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        self._lock_file = take_lock(self.data_dir)
        try:
            self._open_port()
            self._start_postgres()
            self._prepare_site()
            self._clear_broker()
            self._start_services()
            self._await_ready()
        except BaseException:
            self.stop()
            raise
        self._watcher.start()
        self.say(f"Tiebreak is at {self.url}")

    def wait(self) -> None:
        """Return when `request_stop` was called."""
        self._stop_requested.wait()

    def request_stop(self) -> None:
        """Make `wait` return; called a second time, make `stop` use force. Safe in a signal handler."""
        self._hurry = self._stop_requested.is_set()
        self._stop_requested.set()

    def stop(self) -> None:
        """Stop web, scheduler, workers and database, in this order. Harmless when nothing runs."""
        with self._looking:
            self._stopping = True
            for kind in STOP_ORDER:
                self._stop_services([each for each in self.services if each.name.split("-")[0] == kind])
            self.services = []
            if self._listener:
                self._listener.close()
            if self.postgres and self.postgres.process:
                self.postgres.stop()
                self.say("postgres stopped")
        self._stopped.set()
        if self._watcher.is_alive():
            self._watcher.join()
        if self._lock_file:
            self._lock_file.close()
            self._lock_file = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Start, step by step

    def _open_port(self) -> None:
        """Listen before anything starts, and while the web server restarts: no request is refused."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.host, self.port))
            listener.listen(1024)
        except OSError as error:
            listener.close()
            raise SupervisorError(
                f"Cannot listen on {self.host}, port {self.port}: {error.strerror}. "
                "Choose another port with --port, or end the program that has it."
            ) from None
        self._listener = listener
        self.port = listener.getsockname()[1]

    def _start_postgres(self) -> None:
        if self.postgres is None:
            self._tell("postgres", None, "from DATABASE_URL", None)
            return
        try:
            self.postgres.prepare()
            self.postgres.stop_orphan()
            self.postgres.start()
        except PostgresError as error:
            raise SupervisorError(str(error)) from error
        for note in self.postgres.notes:
            self.say(f"note: {note}")
        process = self.postgres.process
        self._tell(
            "postgres", process.pid if process else None, str(self.postgres.cluster), self.postgres.log
        )

    def _prepare_site(self) -> None:
        """Migrate the database and collect the static files, side by side."""
        commands = {
            "migrate": ["migrate", "--noinput"],
            "collectstatic": ["collectstatic", "--noinput", "--clear"],
        }
        log = self.logs / "prepare.log"
        with log.open("wb") as out:
            running = {
                name: subprocess.Popen(
                    manage(*arguments),
                    env=self._environment,
                    stdout=out,
                    stderr=out,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                    preexec_fn=dies_with_me(),
                )
                for name, arguments in commands.items()
            }
            codes = {name: process.wait() for name, process in running.items()}
        for name, code in codes.items():
            if code:
                raise SupervisorError(f"`manage.py {name}` {describe_exit(code)}:\n{end_of(log)}")

    def _clear_broker(self) -> None:
        if self.broker_folder is None:
            self._tell("broker", None, "from CELERY_BROKER_URL", None)
            return
        cleared = clear_messages(self.broker_folder)
        old = f", {cleared} old messages cleared" if cleared else ""
        self._tell("broker", None, f"{self.broker_folder}{old}", None)

    def _start_services(self) -> None:
        assert self._listener is not None
        try:
            self.services = plan_services(
                data_dir=self.data_dir,
                url=self.url,
                listener=self._listener.fileno(),
                environment=self._environment,
            )
        except DeviceError as error:
            raise SupervisorError(str(error)) from error
        for service in self.services:
            service.start()
            self._tell(service.name, service.pid, service.where, service.log)

    def _await_ready(self) -> None:
        """Wait until /readyz says so."""
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline:
            for service in self.services:
                if service.process and has_ended(service.process):
                    raise SupervisorError(f"{service.name} {service.died()}:\n{end_of(service.log)}")
            if self._is_ready() or self._stop_requested.is_set():
                return
            time.sleep(LOOK_EVERY / 2)
        web = next(service for service in self.services if service.name == "web")
        raise SupervisorError(f"The site did not get ready within {READY_WITHIN:.0f} s:\n{end_of(web.log)}")

    def _is_ready(self) -> bool:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  compared, not bound
        connection = http.client.HTTPConnection(host, self.port, timeout=5)
        try:
            connection.request("GET", "/readyz", headers={"Host": f"localhost:{self.port}"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    # While it runs

    def _watch(self) -> None:
        """Start again what died. Lives until everything has stopped, because what it started dies with it."""
        while not self._stopped.wait(LOOK_EVERY):
            with self._looking:
                if not self._stopping:
                    self._look()

    def _look(self) -> None:
        if self.postgres:
            self._look_after(self.postgres)
        for service in self.services:
            if how := service.died():
                assert service.restart_at is not None
                pause = service.restart_at - time.monotonic()
                self.say(f"{service.name} {how}; starting it again in {pause:.1f} s (log: {service.log})")
            if service.restart_at is not None and time.monotonic() >= service.restart_at:
                service.start()
                self._tell(service.name, service.pid, "started again", service.log)

    def _look_after(self, postgres: Postgres) -> None:
        """Start the database again when it died: it recovers from its own log, and the others reconnect."""
        now = time.monotonic()
        if self._postgres_restart_at is None:
            if postgres.process is None or not has_ended(postgres.process):
                return
            how = describe_exit(postgres.process.wait())
            self.say(
                f"postgres {how}; starting it again in {self._postgres_pause:.1f} s (log: {postgres.log})"
            )
            self._postgres_restart_at = now + self._postgres_pause
        if now < self._postgres_restart_at:
            return
        try:
            postgres.prepare()  # somebody may have taken away the right to pass through a folder
            postgres.stop_orphan()
            postgres.start()
        except PostgresError as error:
            self._postgres_pause = min(2 * self._postgres_pause, LONGEST_PAUSE)
            self._postgres_restart_at = time.monotonic() + self._postgres_pause
            self.say(f"postgres: {error}\ntrying again in {self._postgres_pause:.1f} s")
            return
        self._postgres_pause, self._postgres_restart_at = FIRST_PAUSE, None
        process = postgres.process
        self._tell("postgres", process.pid if process else None, "started again", postgres.log)

    def _stop_services(self, services: Iterable[Service]) -> None:
        services = list(services)
        for service in services:
            service.request_stop()
        started = time.monotonic()
        for service in services:
            service.finish(deadline=partial(self._deadline, started, service.grace))
            self.say(f"{service.name} stopped")

    def _deadline(self, started: float, grace: float) -> float:
        return started if self._hurry else started + grace

    def _tell(self, name: str, pid: int | None, where: str, log: Path | None) -> None:
        """One line for one service."""
        process = f"pid {pid}" if pid else ""
        self.say(f"{name:<13} {process:<12} {where}" + (f"  (log: {log})" if log else ""))
