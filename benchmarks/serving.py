"""Servers that benchmarks start and stop."""

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def served(
    application: str,
    *,
    log: Path,
    workers: int,
    threads: int,
    python: Path = Path(sys.executable),
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    path: str = "/healthz",
) -> Iterator[int]:
    """A WSGI application under gunicorn on a free port, which is given when `path` answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        bind = ["--bind", f"fd://{listener.fileno()}", "--preload"]
        size = ["--worker-class", "gthread", "--workers", str(workers), "--threads", str(threads)]
        command = [str(python), "-m", "gunicorn", application, *bind, *size]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--no-control-socket"],
                pass_fds=[listener.fileno()],
                stdout=output,
                stderr=output,
                env=environment,
                cwd=folder,
            )
    try:
        _wait_for(port, path, process, log)
        yield port
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a server that was started here, and wait for it."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(port: int, path: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", path)
            connection.getresponse().read()
        except OSError:
            time.sleep(0.2)
        else:
            return
        finally:
            connection.close()
    raise SystemExit(f"The server did not answer:\n{log.read_text()[-3000:]}")
