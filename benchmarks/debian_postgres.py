"""A throw-away PostgreSQL server from the system's packages, with the contributed extensions.

The embedded one has none of these, and a peer that needs them should run on the same server as we do.
"""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

ACCOUNT = "postgres"  # PostgreSQL refuses to run as root
INSTALL = "install it: apt-get install postgresql postgresql-contrib"


def find_binaries() -> Path:
    """The folder with `initdb` of the newest installed version that has pg_trgm."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise SystemExit(f"There is no PostgreSQL in /usr/lib/postgresql; {INSTALL}")
    folder = found[-1].parent
    version = folder.parent.name
    if not Path(f"/usr/share/postgresql/{version}/extension/pg_trgm.control").exists():
        raise SystemExit(f"PostgreSQL {version} lacks the extension pg_trgm; {INSTALL}")
    return folder


def version() -> str:
    """Such as `15.18`."""
    told = subprocess.run([find_binaries() / "postgres", "-V"], capture_output=True, text=True, check=True)
    return told.stdout.split()[2]


@contextmanager
def running(folder: Path) -> Iterator[Path]:
    """A server with its defaults, durable as they are, in a new folder; gives its socket's folder."""
    binaries, user = find_binaries(), _account()
    cluster, sockets = folder / "cluster", folder / "socket"
    for path in (folder, cluster, sockets):
        path.mkdir(mode=0o700, exist_ok=True)
        if user:
            shutil.chown(path, user["user"], user["group"])
    _pass_through(folder)
    initdb = [
        binaries / "initdb",
        "-D",
        cluster,
        "-U",
        ACCOUNT,
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "-A",
        "trust",
    ]
    made = subprocess.run(initdb, capture_output=True, text=True, cwd="/", **user)
    if made.returncode:
        raise SystemExit(f"initdb failed: {made.stderr or made.stdout}")
    settings = ["-c", "listen_addresses=", "-k", str(sockets)]
    with (folder / "postgres.log").open("wb") as log:
        command = [binaries / "postgres", "-D", cluster, *settings]
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **user)
    try:
        subprocess.run([binaries / "pg_isready", "-h", sockets, "-t", "30", "-q"], check=False)
        for _ in range(300):
            if not subprocess.run([binaries / "pg_isready", "-h", sockets, "-q"], check=False).returncode:
                break
            if server.poll() is not None:
                raise SystemExit(f"PostgreSQL stopped:\n{(folder / 'postgres.log').read_text()[-2000:]}")
        else:
            raise SystemExit("PostgreSQL did not answer.")
        yield sockets
    finally:
        server.send_signal(signal.SIGINT)  # a fast shutdown; SIGTERM would wait for clients
        server.wait(60)


def create_database(sockets: Path, name: str) -> str:
    """Its address as a URL."""
    import psycopg
    from psycopg import sql

    with psycopg.connect(host=str(sockets), user=ACCOUNT, dbname="postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return f"postgres://{ACCOUNT}@{quote(str(sockets), safe='')}/{name}"


def _account() -> dict[str, Any]:
    if os.getuid():
        return {}
    try:
        account = pwd.getpwnam(ACCOUNT)
    except KeyError:
        raise SystemExit(f"There is no user {ACCOUNT} to run PostgreSQL as; {INSTALL}") from None
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _pass_through(folder: Path) -> None:
    """The temporary folder of root is not for others, but its server is another user."""
    if not os.getuid():
        folder.parent.chmod(0o711)
