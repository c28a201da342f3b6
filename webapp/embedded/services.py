"""The programs that a site consists of, with the commands that start them."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from webapp.embedded.devices import find_devices
from webapp.embedded.processes import Service

MANAGE = Path(__file__).resolve().parent.parent.parent / "manage.py"
PYTHON = (sys.executable, "-m")
WEB_PROCESSES, WEB_THREADS = 2, 4
LIGHT_WORKERS = 2
STOP_ORDER = ("web", "scheduler", "worker")  # by the first word of a service's name


def manage(*arguments: str) -> list[str]:
    return [sys.executable, str(MANAGE), *arguments]


def plan_services(
    *, data_dir: Path, url: str, listener: int, environment: Mapping[str, str]
) -> list[Service]:
    """Web, workers for light tasks, one worker for each device, and the scheduler, in order of start.

    `listener` is the descriptor of the listening socket. Raises DeviceError.
    """
    devices = find_devices(environment)
    environment = {**environment, "RUN_DEVICE_KIND": devices[0].kind}
    logs = data_dir / "logs"
    return [
        Service("web", _web(listener), logs / "web.log", url, environment, pass_fds=(listener,)),
        *(
            Service(
                name,
                _worker("light", name=name),
                logs / f"{name}.log",
                "queue light",
                environment,
                grace=20,
            )
            for name in (f"worker-light-{number}" for number in range(LIGHT_WORKERS))
        ),
        *(
            Service(
                f"worker-{device.name}",
                _worker(f"runs-{device.kind}", name=device.name),
                logs / f"worker-{device.name}.log",
                f"queue runs-{device.kind}",
                {**environment, **device.environment},
                grace=30,
            )
            for device in devices
        ),
        Service("scheduler", _scheduler(), logs / "scheduler.log", "periodic tasks", environment),
    ]


def _web(listener: int) -> list[str]:
    command = [*PYTHON, "gunicorn", "webapp.wsgi", "--bind", f"fd://{listener}", "--preload"]
    command += ["--worker-class", "gthread", "--workers", str(WEB_PROCESSES), "--threads", str(WEB_THREADS)]
    if os.environ.get("LOG_FORMAT") != "json":  # then the site writes them itself: `webapp.logs`
        command += ["--access-logfile", "-"]
    return [*command, "--graceful-timeout", "8", "--no-control-socket"]


def _worker(queue: str, *, name: str) -> list[str]:
    """A process that does one task at a time by itself: of a pool whose broker is a folder, one that is
    killed while it waits for work takes the lock along for which the others wait.
    """
    command = [*PYTHON, "celery", "-A", "webapp", "worker", "-Q", queue, "-n", f"{name}@%h", "--pool", "solo"]
    return [*command, "--without-gossip", "--without-mingle", "--without-heartbeat"]  # nobody listens to them


def _scheduler() -> list[str]:
    return [*PYTHON, "celery", "-A", "webapp", "beat", "--pidfile="]
