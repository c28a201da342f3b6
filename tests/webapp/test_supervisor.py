"""`manage.py up` from start to stop, with every part of it killed in between."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from django.conf import settings

import manage
from webapp.embedded import devices, processes
from webapp.embedded.broker import broker_url
from webapp.embedded.postgres import THROWAWAY, Postgres, database_url
from webapp.embedded.supervisor import Supervisor, SupervisorError

SERVICES = ["postgres", "web", "worker-light-0", "worker-light-1", "worker-cpu", "scheduler"]
PATIENCE = 240  # seconds; a loaded machine needs them, an idle one a tenth


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"within {PATIENCE} s there was no {what}"
        time.sleep(0.1)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # a zombie of ours that nobody has collected yet is dead


class Site:
    """A running `manage.py up` and what it said."""

    def __init__(self, folder: Path, **environment: str) -> None:
        command = [sys.executable, "manage.py", "up", "--port", "0", "--data", str(folder)]
        own = {"DJANGO_SETTINGS_MODULE": "webapp.settings", "RUN_DEVICE_KIND": "cpu", **environment}
        self.process = subprocess.Popen(
            command,
            cwd=settings.BASE_DIR,
            env=os.environ | own,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.said: list[str] = []
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()
        wait_until(lambda: self.url or self.process.poll() is not None, "site")
        assert self.process.poll() is None, "\n".join(self.said)

    def listen(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))

    @property
    def url(self) -> str:
        return next(
            (line.removeprefix("Tiebreak is at ") for line in self.said if "Tiebreak is at" in line), ""
        )

    def pid(self, service: str) -> int:
        """Of the newest process."""
        found = [match[1] for line in self.said if (match := re.match(rf"{service} +pid (\d+)", line))]
        return int(found[-1])

    def get(self, path: str) -> tuple[int, dict[str, str]]:
        host, port = self.url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def is_ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def descendants(self) -> set[int]:
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(stat.parent.name))
        found, waiting = set(), [self.process.pid]
        while waiting:
            for child in children.get(waiting.pop(), []):
                found.add(child)
                waiting.append(child)
        return found

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.listener.join(PATIENCE)
        return code


@contextmanager
def own_folder() -> Iterator[Path]:
    """Not below pytest's folder, which every start of pytest closes to other users, the server's included."""
    folder = Path(tempfile.mkdtemp(prefix="tiebreak-site-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with own_folder() as folder:
        yield folder


@pytest.fixture
def fresh_folder() -> Iterator[Path]:
    with own_folder() as folder:
        yield folder


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    site = Site(folder)
    yield site
    site.process.kill()
    site.process.wait()


def test_life(site: Site, folder: Path) -> None:
    assert site.get("/healthz") == (200, {"status": "ok"})
    parts = {"database": "ok", "migrations": "ok", "broker": "ok", "storage": "ok"}
    assert site.get("/readyz") == (200, {"status": "ok", **parts})

    second = subprocess.run(
        [sys.executable, "manage.py", "up", "--port", "0", "--data", str(folder)],
        cwd=settings.BASE_DIR,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "webapp.settings"},
        capture_output=True,
        text=True,
    )
    assert second.returncode == 1
    assert f"already runs in {folder} (pid {site.process.pid})" in second.stderr

    for service in ("postgres", "scheduler"):  # the others: `test_faults.py`
        killed = site.pid(service)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: site.pid(service) != killed, f"new {service}")  # noqa: B023
        assert any(line.startswith(f"{service} was ended by SIGKILL; starting") for line in site.said)
        wait_until(site.is_ready, f"site after {service} was killed")

    everything = site.descendants()
    assert {site.pid(service) for service in SERVICES} <= everything
    assert site.end(signal.SIGTERM) == 0
    assert [pid for pid in everything if is_alive(pid)] == []
    stopped = [line.split()[0] for line in site.said if line.endswith(" stopped")]
    assert stopped == ["web", "scheduler", "worker-light-0", "worker-light-1", "worker-cpu", "postgres"]
    assert "database system is shut down" in (folder / "logs" / "postgres.log").read_text()


def test_nothing_outlives_a_killed_supervisor(site: Site, folder: Path) -> None:
    everything = site.descendants()
    assert site.end(signal.SIGKILL) == -signal.SIGKILL
    again = Site(folder)  # at once, while the old processes may still be ending
    try:
        wait_until(lambda: not any(is_alive(pid) for pid in everything), "end of the old processes")
        assert again.is_ready()
    finally:
        assert again.end(signal.SIGINT) == 0


def test_orphaned_postgres_is_stopped(fresh_folder: Path) -> None:
    """As if its parent had been killed where the kernel does not tell the children."""
    orphan = Postgres(fresh_folder, options=THROWAWAY)
    orphan.prepare()
    orphan.start()
    assert orphan.process
    successor = Postgres(fresh_folder, options=THROWAWAY)
    successor.prepare()
    successor.stop_orphan()
    assert orphan.process.wait(PATIENCE) == 0
    assert successor.notes == [
        f"stopped the PostgreSQL (pid {orphan.process.pid}) that a killed start left behind"
    ]
    # A pid that names somebody else by now, as after a restart of the machine
    (successor.cluster / "postmaster.pid").write_text(f"{os.getpid()}\n{successor.cluster}\n")
    successor.stop_orphan()
    successor.start()
    successor.stop()


def test_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        supervisor = Supervisor(tmp_path, port=port)
        with pytest.raises(SupervisorError, match=f"port {port}: Address already in use.* --port"):
            supervisor.start()
    assert not (tmp_path / "postgres").exists()


@pytest.mark.usefixtures("postgres")
def test_replaced_parts_are_not_started(tmp_path: Path, data_dir: Path) -> None:
    url = database_url(data_dir)
    with psycopg.connect(url.replace("postgres://", "postgresql://"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE replaced")
    replaced = {
        "SECRET_KEY": "only-for-this-test-" * 2,
        "DATABASE_URL": database_url(data_dir, "replaced"),
        "CELERY_BROKER_URL": broker_url(tmp_path / "elsewhere"),
    }
    site = Site(tmp_path / "data", **replaced)
    try:
        assert site.is_ready()
        assert [line.split()[0] for line in site.said[:7]] == ["postgres", "broker", *SERVICES[1:]]
        assert "from DATABASE_URL" in site.said[0]
        assert "from CELERY_BROKER_URL" in site.said[1]
        assert not (tmp_path / "data" / "postgres").exists()
        assert not (tmp_path / "data" / "broker").exists()
    finally:
        assert site.end(signal.SIGTERM) == 0


def test_data_folder_is_read_before_the_settings() -> None:
    assert manage.data_option(["--port", "1", "--data", "/a"]) == "/a"
    assert manage.data_option(["--data=/a b", "--port=1"]) == "/a b"
    assert manage.data_option(["--data"]) is None
    assert manage.data_option(["--database", "/a"]) is None


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count_cuda_devices", lambda environment: 2)
    found = devices.find_devices({})
    assert [(device.name, device.kind) for device in found] == [("cuda-0", "cuda"), ("cuda-1", "cuda")]
    assert [device.environment["CUDA_VISIBLE_DEVICES"] for device in found] == ["0", "1"]
    assert devices.find_devices({"RUN_DEVICE_KIND": "cpu"}) == [devices.Device("cpu", "cpu")]
    monkeypatch.setattr(devices, "count_cuda_devices", lambda environment: 0)
    assert devices.find_devices({}) == [devices.Device("cpu", "cpu")]
    with pytest.raises(devices.DeviceError, match="finds no CUDA device"):
        devices.find_devices({"RUN_DEVICE_KIND": "cuda"})
    with pytest.raises(devices.DeviceError, match="'tpu'"):
        devices.find_devices({"RUN_DEVICE_KIND": "tpu"})


def test_pauses_grow_until_it_lives_steadily(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = processes.Service(
        "x", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "x.log", "", {}
    )
    for pause in (0.5, 1, 2, 4, 8, 16, 30, 30):
        service.start()
        assert service.process
        wait_until(lambda: processes.has_ended(service.process), "end")
        before = time.monotonic()
        assert service.died() == "ended with exit code 3"
        assert before + pause <= service.restart_at <= time.monotonic() + pause
        assert service.died() is None
    service.start()
    service.started_at -= processes.STEADY_AFTER + 1
    wait_until(lambda: processes.has_ended(service.process), "end")
    before = time.monotonic()
    service.died()
    assert before + 0.5 <= service.restart_at <= time.monotonic() + 0.5


def test_what_ignores_sigterm_is_ended_with_its_children(tmp_path: Path) -> None:
    program = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    )
    service = processes.Service("x", [sys.executable, "-c", program], tmp_path / "x.log", "", {})
    service.start()
    wait_until(lambda: service.log.read_text().endswith("\n"), "child")
    service.request_stop()
    service.finish(deadline=lambda: 0.0)
    assert service.process
    assert service.process.returncode == -signal.SIGKILL
    wait_until(lambda: not is_alive(int(service.log.read_text())), "end of the child")


def test_large_logs_are_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "web.log"
    log.write_text("old\n")
    processes.set_aside(log)
    assert log.exists()
    monkeypatch.setattr(processes, "LOG_LIMIT", 3)
    processes.set_aside(log)
    assert not log.exists()
    assert (tmp_path / "web.log.1").read_text() == "old\n"
