"""Starting a run in several processes on this machine, and seeing them off. Torch-free.

All of them stay in the process group of their parent, so that whoever supervises a run ends them together,
and each dies with its parent. ``accelerate launch`` and ``torchrun`` work as well; what they lack, and what
the supervisor of a run goes by, is the exit code of the process that failed.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from training.tuning import errors
from training.tuning.rundir import RunDir

RENDEZVOUS = "TIEBREAK_RENDEZVOUS"
GRACE = 10.0  # seconds that the others have after one has failed
FAILURE = ".failed.json"  # by the first process but rank 0 that fails: what it said


def world_size() -> int:
    """How many processes this one was started with."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def leads() -> bool:
    """Whether this is rank 0, or the only process."""
    return world_size() == 1 or os.environ.get("RANK", "0") == "0"


def processes_asked(directory: RunDir) -> int:
    """``processes`` of the run's config; 1 if it says nothing sensible, which its trainer will refuse."""
    with contextlib.suppress(OSError, ValueError, AttributeError, LookupError, TypeError):
        found = json.loads(directory.run_file.read_text(encoding="utf-8"))["config"].get("processes", 1)
        return found if isinstance(found, int) else 1
    return 1


def launch(directory: RunDir, count: int) -> int:
    """Train in ``count`` processes. Returns the exit code of the first that failed, or 0."""
    cores = os.cpu_count() or 1
    if count > cores:
        raise errors.BadInput(
            f"{count} processes on a machine with {cores} cores",
            file=directory.run_file,
            field="config.processes",
        )
    (directory.path / FAILURE).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        children: list[subprocess.Popen[bytes]] = []

        def forward(signum: int, frame: object) -> None:
            for child in children:
                child.send_signal(signum)

        previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            place = f"file://{folder}/store"
            children += [_start(directory, rank, count, place=place) for rank in range(count)]
            failed = _wait(children)
        finally:
            for child in children:
                child.kill()
                child.wait()
            for number, handler in previous.items():
                signal.signal(number, handler)
    return 0 if failed is None else _report(directory, *failed)


def tell_failure(directory: RunDir, error: Exception) -> None:
    """Of a process other than rank 0: leave word, unless another failed before."""
    said = str(error) if isinstance(error, errors.BadInput) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(FileExistsError), (directory.path / FAILURE).open("x", encoding="utf-8") as file:
        json.dump({"error": said}, file)


def _start(directory: RunDir, rank: int, count: int, *, place: str) -> "subprocess.Popen[bytes]":
    environment: dict[str, Any] = {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)),
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform.startswith("linux") else "lo0",
        **os.environ,
        RENDEZVOUS: place,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-m", "training.tuning", str(directory.path)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)


def _wait(children: "list[subprocess.Popen[bytes]]") -> tuple[int, int] | None:
    """(rank, exit code) of the first process that failed, once all have ended or had time to."""
    failed, deadline = None, float("inf")
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        for rank, child in enumerate(children):
            if failed is None and child.poll() not in (None, 0):
                failed, deadline = rank, time.monotonic() + GRACE
        time.sleep(0.05)
    ended = [(rank, child.poll()) for rank, child in enumerate(children)]
    if failed is None:
        failed = next((rank for rank, code in ended if code), None)
    return None if failed is None else (failed, int(children[failed].returncode))


def _report(directory: RunDir, rank: int, code: int) -> int:
    """The exit code for the whole; state.json says why if rank 0 could not."""
    if code < 0:
        code = errors.EXIT_INTERRUPTED if code == -signal.SIGTERM else 128 - code
    said = directory.path / FAILURE
    if said.exists():
        error = f"process {rank}: {json.loads(said.read_text(encoding='utf-8'))['error']}"
        directory.set_state(**directory.read_progress(), status="failed", error=error)
    return code
