"""One attempt of a run on this worker: lay out, train in a child, follow it, bring the result home."""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from django.conf import settings
from django.db import connection

from annotation.log_context import working_on
from training import storage
from training.models import ResumePoint, Run
from training.services.errors import AttemptLost, GivenUp, RunFailed
from training.services.following import Follower, Uploader
from training.services.pulse import Pulse
from training.services.recording import OUTAGES, Recorder, insist
from training.services.workspace import Workspace
from training.tuning import errors as exits
from training.tuning.rundir import write_json
from training.tuning.warm_start import Forked, Warm

logger = logging.getLogger(__name__)
TICK = 0.5  # seconds between looks at the run directory
CANCEL_PATIENCE = 120.0  # seconds to finish a step and save after the cancel file or SIGTERM
TERM_PATIENCE = 15.0
END_PATIENCE = 30.0
STORE_TRIES = 5
OUTPUT = "output.txt"  # what the trainer printed: its one line about bad input, a traceback

HICCUPS = (*OUTAGES, OSError, storage.StorageError)
T = TypeVar("T")

_stop_asked = threading.Event()
_warm: list[Warm] = []  # at most one


def ask_to_stop() -> None:
    """This worker process is to end: trainers save and stop, their runs are queued again."""
    _stop_asked.set()


def stop_was_asked() -> bool:
    """Whether this worker process is to end."""
    return _stop_asked.is_set()


def execute(run: Run) -> None:
    """Work on a claimed run until it, or this attempt, has ended. Never raises for what a run did."""
    with working_on(run_id=run.pk):
        _execute(run)


def _execute(run: Run) -> None:
    recorder, workspace = Recorder(run), Workspace(run)
    trainer = Trainer(workspace)
    logger.info("run %s (%s), attempt %s", run.pk, run.method, run.attempt)
    try:
        with Pulse(run, on_given_up=trainer.kill) as pulse:
            try:
                _attempt(run, recorder, workspace, trainer, pulse)
            finally:
                trainer.end()
    except GivenUp as error:
        logger.warning("%s: the run was given to another worker", error)


def _attempt(run: Run, recorder: Recorder, workspace: Workspace, trainer: "Trainer", pulse: Pulse) -> None:
    tell = partial(insist, what=f"run {run.pk}")
    try:
        tell(recorder.check)
        workspace.stop_leftover()
        step = tell(workspace.lay_out)
        tell(partial(recorder.begin, step=step))
        known = set(tell(lambda: list(ResumePoint.objects.filter(run=run).values_list("step", flat=True))))
        uploader = Uploader(workspace.dir, run_id=run.pk, known=known)
        trainer.start()
        _follow(run, recorder, Follower(workspace.dir), uploader, trainer, pulse)
        _conclude(run, recorder, workspace, uploader, trainer, pulse)
    except RunFailed as error:
        trainer.end()
        tell(partial(recorder.fail, str(error)))
        workspace.remove()
    except (AttemptLost, OSError, storage.StorageError) as error:
        trainer.end()
        logger.exception("run %s: attempt %s was lost", run.pk, run.attempt)
        tell(partial(recorder.give_back, f"{error}".rstrip(".") + ".", counts=True))


def _follow(
    run: Run, recorder: Recorder, follower: Follower, uploader: Uploader, trainer: "Trainer", pulse: Pulse
) -> None:
    """Until the trainer has ended: copy what it writes, and ask it to stop when somebody wants that."""
    next_try, wait = 0.0, TICK
    while not trainer.has_ended(within=TICK):
        if pulse.given_up.is_set():
            raise GivenUp(f"run {run.pk}, attempt {run.attempt}")
        if pulse.cancel_asked.is_set():
            trainer.ask_to_cancel()
        elif stop_was_asked():
            trainer.ask_to_end()
        if time.monotonic() < next_try:
            continue
        try:
            _copy(recorder, follower, uploader)
            wait = TICK
        except HICCUPS as error:  # nothing is lost: what was not copied now is still in the run directory
            logger.warning("run %s: database or storage is away: %s", run.pk, _first_line(error))
            connection.close()
            follower.start_over()
            uploader.start_over()
            wait = min(2 * wait, 5.0)
            next_try = time.monotonic() + wait
    trainer.end()  # whatever it left behind
    tell = partial(insist, what=f"run {run.pk}")
    _persist(lambda: tell(partial(_copy, recorder, follower, uploader)), what="What the trainer wrote")


def _copy(recorder: Recorder, follower: Follower, uploader: Uploader) -> None:
    news = follower.look()
    if news is not None:
        recorder.record(news)
        follower.accept()
    uploader.upload(recorder.add_resume_point)


def _persist(store: Callable[[], T], *, what: str) -> T:
    """Store something, with some patience for a storage that is away."""
    for number in range(1, STORE_TRIES + 1):
        try:
            return store()
        except (OSError, storage.StorageError) as error:
            logger.warning("%s could not be stored: %s", what, _first_line(error))
            if number == STORE_TRIES:
                raise AttemptLost(f"{what} could not be stored: {error}") from error
            time.sleep(number)
    raise AssertionError("unreachable")


def _conclude(
    run: Run,
    recorder: Recorder,
    workspace: Workspace,
    uploader: Uploader,
    trainer: "Trainer",
    pulse: Pulse,
) -> None:
    """Turn the trainer's exit code into what becomes of the run."""
    tell = partial(insist, what=f"run {run.pk}")
    code = trainer.returncode
    if code == exits.EXIT_DONE:
        result = _store_result(workspace)
        metadata = _read_metadata(workspace.dir.result / "metadata.json")
        tell(partial(recorder.finish, result, metadata))
    elif code == exits.EXIT_BAD_INPUT or code == exits.EXIT_UNEXPECTED:
        tell(partial(recorder.fail, trainer.last_words()))
    elif code == exits.EXIT_CANCELLED or pulse.cancel_asked.is_set():
        tell(recorder.cancelled)
    elif code in (exits.EXIT_INTERRUPTED, -signal.SIGTERM) and stop_was_asked():
        tell(partial(recorder.give_back, "The worker was stopped; the run goes on from here.", counts=False))
        return
    else:
        with contextlib.suppress(OSError):  # a full disk; Postgres is told in any case
            trainer.write_failed(why_lost(code))
        tell(partial(recorder.give_back, why_lost(code), counts=True))
        return
    workspace.remove()


def why_lost(code: int | None) -> str:
    """A sentence about a trainer that ended without saying why."""
    if code == exits.EXIT_LOCKED:
        return "Another trainer held the run directory."
    if code == exits.EXIT_DISK_FULL:
        return "The worker's disk was full; free some room there."
    if code == exits.EXIT_INTERRUPTED:
        return "The trainer was interrupted by SIGTERM."
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):  # the trainer, or one of its processes
        return "The trainer was killed (SIGKILL); most often the machine was out of memory."
    if code is not None and code < 0:
        return f"The trainer was killed by {signal.Signals(-code).name}."
    return f"The trainer ended with exit code {code} and without a word."


def _store_result(workspace: Workspace) -> storage.Stored:
    if not workspace.dir.finished:
        raise RunFailed("The trainer said that it was done but left no result.")
    return _persist(lambda: storage.put_zip(workspace.dir.result, folder="checkpoints"), what="The result")


def _read_metadata(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


class Trainer:
    """The child process, in a process group of its own so that all of it can be ended."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.returncode: int | None = None
        self._child: subprocess.Popen[bytes] | Forked | None = None
        self._asked_at: float | None = None
        self._terminated_at: float | None = None

    def start(self) -> None:
        """Start the trainer inside the run directory; it dies with this process."""
        self.workspace.dir.cancel_file.unlink(missing_ok=True)
        self._child = self._start_warm() or self._start_cold()
        self.workspace.remember_child(self._child.pid)

    def _start_warm(self) -> Forked | None:
        kind, folder = self.workspace.run.device_kind, self.workspace.path
        if not _warm:
            return None
        if _warm[0].is_gone:
            warm_up(device_kind=kind)  # for the next run
        if not _warm[0].serves(trainer_environment(kind)):
            return None
        return _warm[0].fork(folder, folder / OUTPUT)

    def _start_cold(self) -> "subprocess.Popen[bytes]":
        with (self.workspace.path / OUTPUT).open("wb") as output:
            return subprocess.Popen(
                self.command(),
                cwd=self.workspace.path,
                env=trainer_environment(self.workspace.run.device_kind),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def command(self) -> list[str]:
        """`-P`: modules are not looked for in the run directory."""
        return [sys.executable, "-P", "-m", "training.tuning", "."]

    def has_ended(self, *, within: float) -> bool:
        """Wait a moment; whether the child has ended."""
        assert self._child is not None
        try:
            self.returncode = self._child.wait(timeout=within)
        except subprocess.TimeoutExpired:
            return False
        return True

    def ask_to_cancel(self) -> None:
        """Let the trainer save and stop; insist if it does not."""
        self.workspace.dir.cancel_file.touch()
        self._lose_patience()

    def ask_to_end(self) -> None:
        """SIGTERM: finish the step, save, end."""
        if self._asked_at is None:
            self._signal(signal.SIGTERM)
        self._lose_patience()

    def kill(self) -> None:
        """End the whole process group at once. Safe to call at any time, from any thread."""
        self._signal(signal.SIGKILL)

    def end(self) -> None:
        """Kill what is left of the group, and see the child off."""
        self.kill()
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel
                self.returncode = self._child.wait(timeout=END_PATIENCE)
                self._child = None  # its number may soon be another process's

    def last_words(self) -> str:
        """Why the trainer says it failed, without the paths of this machine."""
        path = self.workspace.dir.state_file
        said = json.loads(path.read_text(encoding="utf-8")).get("error") if path.exists() else None
        if not said:
            output = self.workspace.path / OUTPUT
            lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            said = lines[-1] if lines else "The trainer failed without a word."
        return str(said).replace(f"{self.workspace.path}/", "")

    def write_failed(self, error: str) -> None:
        """Say in state.json what the trainer no longer could."""
        path = self.workspace.dir.state_file
        state = (
            json.loads(path.read_text(encoding="utf-8"))
            if path.exists()
            else {"step": 0, "total_steps": None}
        )
        write_json(path, {**state, "status": "failed", "error": error})

    def _lose_patience(self) -> None:
        now = time.monotonic()
        self._asked_at = self._asked_at or now
        if self._terminated_at is None and now - self._asked_at > CANCEL_PATIENCE:
            self._terminated_at = now
            self._signal(signal.SIGTERM)
        elif self._terminated_at is not None and now - self._terminated_at > TERM_PATIENCE:
            self.kill()

    def _signal(self, number: int) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)


def warm_up(*, device_kind: str) -> None:
    """Let a process load what runs need, so that they start at once from now on. A worker's main thread calls
    this: the process ends with the thread that started it. Elsewhere than on Linux nobody is sure that a fork
    of such a process works.
    """
    if sys.platform.startswith("linux"):
        _warm[:] = [Warm(trainer_environment(device_kind))]


def trainer_environment(device_kind: str) -> dict[str, str]:
    """This process's environment, without what only the site needs."""
    hidden = {"DATABASE_URL", "SECRET_KEY", "CELERY_BROKER_URL", "STORAGE_URL", "DJANGO_SETTINGS_MODULE"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["PYTHONPATH"] = str(settings.BASE_DIR)
    environment["PYTHONUNBUFFERED"] = "1"
    if device_kind == "cpu":
        environment["TIEBREAK_DEVICE"] = "cpu"
    return environment


def inspect(run: Run) -> dict[str, Any]:
    """The run's data as the trainer will see it, by a child. Raises RunFailed with the trainer's words."""
    workspace = Workspace(run, name=f"inspect-{run.pk}")
    try:
        workspace.lay_out()
        command = [sys.executable, "-P", "-m", "training.tuning", "inspect", ".", "--json"]
        child = subprocess.run(
            command,
            cwd=workspace.path,
            env=trainer_environment("cpu"),
            capture_output=True,
            text=True,
            check=False,
        )
        if child.returncode == exits.EXIT_DONE:
            found: dict[str, Any] = json.loads((workspace.path / "inspect.json").read_text(encoding="utf-8"))
            return found
        words = child.stderr.strip().splitlines() or ["The trainer could not look at the data."]
        raise RunFailed(words[-1].replace(f"{workspace.path}/", ""))
    finally:
        workspace.remove()
        shutil.rmtree(workspace.path, ignore_errors=True)
