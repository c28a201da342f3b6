"""The run directory: one writer, files that appear by rename, and a state that others can read.

Torch-free. See docs for the layout; in short: ``run.json`` and ``data/`` come in, ``metrics.jsonl``,
``state.json``, ``samples.jsonl``, ``log.txt``, ``checkpoint-000200/`` and ``result/`` go out, and ``cancel``
asks to stop.
"""

import contextlib
import ctypes
import fcntl
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training.tuning.errors import DiskFull, Locked, is_disk_full

HEARTBEAT_SECONDS = 5.0
ROOM_LEFT = 1 << 20  # bytes; with less a disk counts as full


class StopRequest:
    """Set by the signal handler, read between steps."""

    signalled = False


class RunDir:
    """Paths of one run directory, and the only code that writes its bookkeeping files.

    One that does not ``write`` (of several processes, all but the first) reads, and leaves everything as it
    is.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path.resolve()
        self.writes = writes
        self.run_file = self.path / "run.json"
        self.train_file = self.path / "data" / "train.jsonl"
        self.eval_file = self.path / "data" / "eval.jsonl"
        self.media = self.path / "data" / "media"
        self.metrics_file = self.path / "metrics.jsonl"
        self.samples_file = self.path / "samples.jsonl"
        self.state_file = self.path / "state.json"
        self.log_file = self.path / "log.txt"
        self.cancel_file = self.path / "cancel"
        self.result = self.path / "result"
        self._state: dict[str, Any] = {"status": "running", "step": 0, "total_steps": None, "error": None}
        self._guard = threading.Lock()

    # One writer

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the directory, or raise Locked. The kernel lets go when the holder dies."""
        if not self.writes:
            yield
            return
        with (self.path / "lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Locked(f"{self.path}: another process is training here") from None
            yield

    # State

    def set_state(self, **changes: Any) -> None:
        """Change status, step, total_steps or error, and write ``state.json`` (heartbeat: Unix time)."""
        with self._guard:
            self._state.update(changes)
            if self.writes:
                write_json(self.state_file, {**self._state, "heartbeat": time.time()})

    @contextlib.contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Rewrite ``state.json`` every few seconds as long as the block runs."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(HEARTBEAT_SECONDS):
                with contextlib.suppress(OSError):  # of a full disk: the run itself will tell
                    self.set_state()

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @property
    def finished(self) -> bool:
        """The result is there: it appears by rename, complete."""
        return self.result.is_dir()

    def read_progress(self) -> dict[str, Any]:
        """step and total_steps of ``state.json``, as far as it says them."""
        if not self.state_file.exists():
            return {}
        state = json.loads(self.state_file.read_text(encoding="utf-8"))
        return {key: state[key] for key in ("step", "total_steps") if key in state}

    def remove_drafts(self) -> None:
        """Remove folders that a killed writer left unfinished."""
        for draft in self.path.glob(".*.draft"):
            if self.writes and draft.is_dir():
                shutil.rmtree(draft)

    # Metrics and samples

    def append_metrics(self, row: dict[str, Any]) -> None:
        """One line of ``metrics.jsonl``; a value that is not finite becomes null."""
        if self.writes:
            append_json_line(self.metrics_file, finite(row))

    def append_sample(self, row: dict[str, Any]) -> None:
        """One line of ``samples.jsonl``."""
        if self.writes:
            append_json_line(self.samples_file, row)

    def cut_back(self, step: int) -> None:
        """Remove metrics and samples after ``step``, half lines, and samples of the finished model."""
        for path in (self.metrics_file, self.samples_file):
            if self.writes and path.exists():
                rows = [row for row in whole_rows(path) if row["step"] <= step and row.get("when") != "after"]
                write_text(path, "".join(json.dumps(row) + "\n" for row in rows))

    # Checkpoints and the result

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        found = (path for path in self.path.glob("checkpoint-*") if path.name.split("-")[1].isdigit())
        return sorted(found, key=step_of)

    def save_checkpoint(self, step: int, write: Callable[[Path], None], *, keep: set[int]) -> None:
        """Write ``checkpoint-{step}`` by rename; then keep the newest two and the steps in ``keep``."""
        if not self.writes:
            return
        publish(self.path / f"checkpoint-{step:06d}", write)
        old = [path for path in self.checkpoints()[:-2] if step_of(path) not in keep]
        for path in old:  # first out of sight, so that nobody reads half a checkpoint
            shutil.rmtree(path.rename(path.with_name(f".{path.name}.draft")))

    def publish_result(self, write: Callable[[Path], None]) -> None:
        """Write ``result/`` by rename."""
        if self.writes:
            publish(self.result, write)


def step_of(checkpoint: Path) -> int:
    """200 for ``checkpoint-000200``."""
    return int(checkpoint.name.split("-")[1])


def publish(target: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a folder beside ``target``, flush it to disk, and rename it into place."""
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        write(draft)
        for path in [*draft.rglob("*"), draft]:
            _flush(path)
    except Exception as error:
        # torch.save does not say why it failed, so the disk is asked, while what was begun is still there.
        full = is_disk_full(error) or shutil.disk_usage(draft).free < ROOM_LEFT
        shutil.rmtree(draft, ignore_errors=True)
        if full:
            raise DiskFull(f"no room on the disk for {target.name}") from error
        raise
    if target.exists():
        shutil.rmtree(target)
    draft.rename(target)
    _flush(target.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a file by rename, so that no reader sees half of it."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file by rename."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_json_line(path: Path, row: dict[str, Any]) -> None:
    """Add one line in one write."""
    with path.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with null for every value that is not finite, and the names of those under "nonfinite"."""
    bad = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    return {**row, **dict.fromkeys(bad), "nonfinite": bad} if bad else row


def die_with_parent() -> None:
    """On Linux, be killed when the process (more exactly: its thread) that started this one dies.

    A process without a parent of its own (started by init, or in a container as the first) has none to
    follow.
    """
    parent = os.getppid()
    if not sys.platform.startswith("linux") or parent <= 1:
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it died in between
        os.kill(os.getpid(), signal.SIGKILL)


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file but for a last one without its line break, which a killed writer left."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
