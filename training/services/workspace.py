"""A run directory on this worker's disk: laid out from the storage, kept between attempts, then removed."""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings

from training import datasets, storage
from training.models import Checkpoint, Metric, ResumePoint, Run
from training.services.errors import AttemptLost, RunFailed
from training.tuning.rundir import RunDir, step_of, write_json, write_text

logger = logging.getLogger(__name__)
DAY = 24 * 3600.0  # seconds
LOCK_PATIENCE = 30.0  # seconds until a killed trainer's lock must be free


class Workspace:
    """`runs/<id>/` is the run directory; `runs/<id>.json` says what it is for and who trains in it."""

    def __init__(self, run: Run, *, name: str | None = None) -> None:
        self.run = run
        self.path: Path = settings.WORK_DIR / "runs" / (name or str(run.pk))
        self.marker = self.path.with_name(f"{self.path.name}.json")
        self.dir = RunDir(self.path)

    def lay_out(self) -> int:
        """Make the directory ready for the trainer. Returns the step from which it will go on.

        What an earlier attempt left on this machine is used if it belongs to this run and its data is intact.
        Raises RunFailed if something that the run needs is not there.
        """
        if not self._is_intact():
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
            write_json(self.marker, self._identity())
            self._unpack(
                self.run.snapshot.storage_key, self.run.snapshot.sha256, self.path / "data", content=True
            )
        self.dir.remove_drafts()
        self.dir.cancel_file.unlink(missing_ok=True)
        write_json(self.dir.run_file, self.run_json())
        self._lay_out_models()
        for point in ResumePoint.objects.filter(run=self.run).order_by("step"):
            target = self.path / f"checkpoint-{point.step:06d}"
            if not target.exists():
                self._unpack(point.storage_key, point.sha256, target)
        if self.run.is_job:
            return 0
        checkpoints = self.dir.checkpoints()
        step = step_of(checkpoints[-1]) if checkpoints else 0
        self._lay_out_history(step)
        return step

    def run_json(self) -> dict[str, Any]:
        """What run.json holds: models by their place, and what the model card should say of the data."""
        run = self.run
        return {
            "method": run.method,
            "config": run.config,
            "base": self._place(run.base.location if run.base else "", run.base_checkpoint),
            "reward": [self._reward_entry(entry) for entry in run.reward] or None,
            # The rest the trainer counts and hashes itself.
            "data": {"project": run.project.name, "base_name": name_of_base(run)},
            "seed": run.seed,
        }

    def stop_leftover(self) -> None:
        """Kill a trainer that an earlier attempt left here, and wait until the directory's lock is free."""
        child = _read_json(self.marker).get("child")
        if child and process_started(child["pid"]) == child["started"]:
            logger.warning("run %s: killing the trainer %s of an earlier attempt", self.run.pk, child["pid"])
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child["pid"], signal.SIGKILL)
        deadline = time.monotonic() + LOCK_PATIENCE
        while not self._lock_is_free():
            if time.monotonic() > deadline:
                raise AttemptLost(f"Another process holds {self.path / 'lock'} and does not let go.")
            time.sleep(0.1)

    def remember_child(self, pid: int) -> None:
        """Note who trains here, for a later attempt that may have to kill it."""
        write_json(self.marker, {**self._identity(), "child": {"pid": pid, "started": process_started(pid)}})

    def remove(self) -> None:
        """Remove everything of this run from this machine."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.marker.unlink(missing_ok=True)

    def _is_intact(self) -> bool:
        marker = _read_json(self.marker)
        marker.pop("child", None)
        data = self.path / "data"
        if marker != self._identity() or not data.is_dir():
            return False
        return datasets.content_hash(data) == self.run.snapshot.sha256

    def _identity(self) -> dict[str, Any]:
        created = self.run.created_at.isoformat()
        return {"run": self.run.pk, "created_at": created, "data": self.run.snapshot.sha256}

    def _lock_is_free(self) -> bool:
        lock = self.path / "lock"
        if not lock.exists():
            return True
        with lock.open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def _place(self, location: str, checkpoint: Checkpoint | None) -> str:
        """Checkpoints lie inside the run directory, where the trainer starts: one path on every machine."""
        return f"models/checkpoint-{checkpoint.pk}" if checkpoint else location

    def _reward_entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        if "model" not in entry:
            return entry
        base, checkpoint = named_model(entry["model"])
        return {**entry, "model": self._place(base, checkpoint)}

    def _lay_out_models(self) -> None:
        checkpoints = [self.run.base_checkpoint] if self.run.base_checkpoint else []
        checkpoints += [
            found for entry in self.run.reward if (found := named_model(entry.get("model", ""))[1])
        ]
        for checkpoint in checkpoints:
            target = self.path / self._place("", checkpoint)
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                self._unpack(checkpoint.storage_key, checkpoint.sha256, target)
                point_at_base(target, root_location(checkpoint))

    def _unpack(self, key: str, sha256: str, target: Path, *, content: bool = False) -> None:
        """`sha256` is that of the zip, or with `content` that of a snapshot's content."""
        try:
            if not content:
                storage.unpack(key, sha256=sha256, target=target)
                return
            storage.unpack(key, sha256=Path(key).stem, target=target)
        except storage.StorageError as error:
            raise RunFailed(str(error)) from None
        if datasets.content_hash(target) != sha256:
            raise RunFailed(f"{key} does not hold the data that this run was made with.")

    def _lay_out_history(self, step: int) -> None:
        """metrics.jsonl and samples.jsonl up to `step`: what is here, and what Postgres knows besides."""
        rows: dict[tuple[int, str], dict[str, Any]] = {}
        for metric in Metric.objects.filter(run=self.run, step__lte=step).order_by("step", "pk"):
            rows[metric.step, metric.kind] = {"step": metric.step, **metric.values}
        for row in read_rows(self.dir.metrics_file):
            if row["step"] <= step:
                rows[row["step"], kind_of(row)] = row
        write_text(
            self.dir.metrics_file,
            "".join(json.dumps(rows[key]) + "\n" for key in sorted(rows, key=_place_in_log)),
        )
        samples = [_restore_sample(row, self.path) for row in self.run.samples if row.get("step", 0) <= step]
        write_text(self.dir.samples_file, "".join(json.dumps(row) + "\n" for row in samples))


def tidy_work_dir() -> None:
    """Remove what killed workers left: directories of runs that have ended or are no more, and scratch."""
    old = [path for path in settings.WORK_DIR.glob("scratch-*") if time.time() - path.stat().st_mtime > DAY]
    for path in (settings.WORK_DIR / "runs").glob("*"):
        number = path.name.removesuffix(".json").removeprefix("inspect-")
        if number.isdecimal() and not Run.objects.filter(pk=number).exclude(status__in=Run.ENDED).exists():
            old.append(path)
    for path in old:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def named_model(name: str) -> tuple[str, Checkpoint | None]:
    """Where a model lies that was named when the run was made: its location, or its checkpoint."""
    from training.models import BaseModel

    if name.startswith("checkpoint:"):
        return "", Checkpoint.objects.get(pk=int(name.removeprefix("checkpoint:")))
    base = BaseModel.objects.filter(name=name).first()
    return (base.location if base else ""), None


def root_location(checkpoint: Checkpoint) -> str:
    """Where the registered model lies from which a checkpoint descends."""
    run = checkpoint.run
    while run.base_checkpoint is not None:
        run = run.base_checkpoint.run
    return run.base.location if run.base else ""


def name_of_base(run: Run) -> str | None:
    """How a model card calls the base: a hub id as it is, a folder by its registered name."""
    if run.base_checkpoint is not None:
        made_by = run.base_checkpoint.run
        below = name_of_base(made_by)
        origin = f"{made_by.method} from {below}" if below else made_by.method
        return f"checkpoint {run.base_checkpoint.pk} ({origin})"
    if run.base is None:
        return None
    return run.base.name if Path(run.base.location).is_absolute() else run.base.location


def point_at_base(folder: Path, location: str) -> None:
    """Let an unpacked adapter name its base where it lies now, and not where it lay when it was trained."""
    for name, key in (("adapter_config.json", "base_model_name_or_path"), ("metadata.json", "base")):
        for path in folder.rglob(name):  # an ensemble has an adapter in a folder for each of its members
            write_json(path, {**json.loads(path.read_text(encoding="utf-8")), key: location})


def process_started(pid: int) -> int | None:
    """When a process started, in the kernel's ticks; with the pid a name for good. None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[19])


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSONL file that may be missing and whose last line may be half written."""
    if path.exists():
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            if line.strip():
                yield json.loads(line)


def kind_of(row: dict[str, Any]) -> str:
    """eval for a row of evaluation values, else train."""
    return "eval" if any(name.startswith("eval/") for name in row) else "train"


def _place_in_log(key: tuple[int, str]) -> tuple[int, bool]:
    step, kind = key
    return step, kind == "eval"


def _restore_sample(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A stored sample as the trainer wrote it, with its picture back in its place."""
    if "file" not in row:
        return row
    target = folder / row["file"]
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        storage.copy_to(f"samples/{row['image']}", target)
    return {**{name: value for name, value in row.items() if name != "file"}, "image": row["file"]}


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
