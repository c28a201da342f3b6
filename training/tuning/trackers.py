"""Metrics also to TensorBoard, MLflow or Weights & Biases: optional packages, and never in the way.

Values are handed to a thread of their own. A tracker that fails is left out from then on, and the log says
so; one that hangs is not waited for longer than ``PATIENCE``. Where trackers keep their things is theirs to
say, by the environment: ``TENSORBOARD_LOGDIR`` (else ``tensorboard/`` in the run directory),
``MLFLOW_TRACKING_URI`` (else ``mlruns/`` there), ``WANDB_MODE``, ``WANDB_API_KEY`` and the like.
"""

import importlib.util
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from training.tuning.errors import BadInput

PATIENCE = 20.0  # seconds at the end of a run for what was not sent yet
WAITING = 10_000  # rows at most that a slow tracker has not taken yet
PROJECT = "tiebreak"

logger = logging.getLogger("training.tuning")


@dataclass(frozen=True)
class Tracked:
    """What a tracker is told of a run. ``key`` tells runs apart, and stays when a run is resumed."""

    folder: Path
    key: str
    method: str
    config: Mapping[str, Any]
    done: int


class Tracker(Protocol):
    """What a package is used for."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Keep the values of a step."""

    def close(self, status: str) -> None:
        """The run has ended: done, cancelled, interrupted or failed."""


class Trackers:
    """The trackers of a run, behind one queue and one thread."""

    def __init__(self, names: Sequence[str], run: Tracked) -> None:
        self._waiting: queue.Queue[tuple[int, dict[str, float]] | str] = queue.Queue(maxsize=WAITING)
        self._full = False
        self._thread = threading.Thread(target=self._work, args=(names, run), name="trackers", daemon=True)
        self._thread.start()

    def send(self, step: int, row: Mapping[str, Any]) -> None:
        """Pass on the numbers of a row, without waiting."""
        values = {name: float(value) for name, value in row.items() if _is_number(value)}
        try:
            self._waiting.put_nowait((step, values))
        except queue.Full:
            if not self._full:
                logger.warning("the trackers are too slow; rows from step %d on are missing there", step)
            self._full = True

    def close(self, status: str) -> None:
        """Give the thread a moment to send what is left."""
        try:
            self._waiting.put(status, timeout=PATIENCE)
            self._thread.join(timeout=PATIENCE)
        except queue.Full:
            pass
        if self._thread.is_alive():
            logger.warning("the trackers did not finish within %.0f seconds", PATIENCE)

    def _work(self, names: Sequence[str], run: Tracked) -> None:
        trackers: dict[str, Tracker] = {}
        for name in names:
            _try(name, trackers, partial(_open, name, trackers, run))
        while not isinstance(item := self._waiting.get(), str):
            for name, tracker in list(trackers.items()):
                _try(name, trackers, partial(tracker.log, *item))
        for name, tracker in list(trackers.items()):
            _try(name, trackers, partial(tracker.close, item))


def _open(name: str, trackers: dict[str, Tracker], run: Tracked) -> None:
    trackers[name] = OPENERS[name](run)


def _try(name: str, trackers: dict[str, Tracker], work: Callable[[], None]) -> None:
    """Let a tracker work; one that fails is left out from then on."""
    try:
        work()
    except Exception as error:  # noqa: BLE001, whatever a package may raise, training goes on
        trackers.pop(name, None)
        logger.warning("%s is left out from here on: %s: %s", name, type(error).__name__, error)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_installed(names: Sequence[str]) -> None:
    """BadInput if a tracker's package is missing."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise BadInput(
                f'the package {name} is not installed: pip install "tiebreak[{name}]"',
                field="config.report_to",
            )


class TensorBoard:
    """Event files."""

    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        root = os.environ.get("TENSORBOARD_LOGDIR")
        folder = Path(root) / run.key if root else run.folder / "tensorboard"
        self._writer = SummaryWriter(str(folder), purge_step=run.done + 1 if run.done else None)

    def log(self, step: int, values: dict[str, float]) -> None:
        """See Tracker."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, status: str) -> None:
        """See Tracker."""
        self._writer.close()


class MLflow:
    """A run in the experiment ``tiebreak``, found again by its tag when training goes on."""

    STATUSES = {"done": "FINISHED", "failed": "FAILED"}

    def __init__(self, run: Tracked) -> None:
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:  # MLflow would rather have a database than files, and asks for this word
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (run.folder / "mlruns").as_uri()
        self._client = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(PROJECT)
        where = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        found = self._client.search_runs([where], filter_string=f"tags.tiebreak = '{run.key}'")
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        made = self._client.create_run(where, run_name=run.key, tags={PROJECT: run.key})
        self._id = made.info.run_id
        for name, value in {"method": run.method, **run.config}.items():
            self._client.log_param(self._id, name, str(value)[:500])

    def log(self, step: int, values: dict[str, float]) -> None:
        """See Tracker."""
        from mlflow.entities import Metric

        metrics = [Metric(name, value, int(time.time() * 1000), step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, status: str) -> None:
        """See Tracker."""
        self._client.set_terminated(self._id, status=self.STATUSES.get(status, "KILLED"))


class Wandb:
    """A run of the project ``tiebreak`` (or ``WANDB_PROJECT``)."""

    def __init__(self, run: Tracked) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.key,
            name=run.key,
            resume="allow",
            dir=os.environ.get("WANDB_DIR", str(run.folder)),
            config={"method": run.method, **run.config},
            settings=wandb.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: dict[str, float]) -> None:
        """See Tracker."""
        self._run.log({"step": step, **values})

    def close(self, status: str) -> None:
        """See Tracker."""
        self._run.finish(exit_code=0 if status == "done" else 1)


OPENERS: dict[str, Callable[[Tracked], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": Wandb,
}
