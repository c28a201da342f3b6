"""Reading a run directory while a trainer writes in it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training import storage
from training.services.recording import News
from training.services.workspace import read_rows
from training.tuning.rundir import RunDir, step_of

LOG_TAIL = 16_000  # bytes


class Tail:
    """The new whole lines of a file that grows, and that is replaced when a run resumes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position: tuple[int, int] = (0, 0)  # inode, offset
        self._next = self._position

    def read(self) -> list[dict[str, Any]]:
        """Rows since the last `accept`."""
        try:
            with self.path.open("rb") as file:
                found, offset = os.fstat(file.fileno()), self._position[1]
                if found.st_ino != self._position[0] or found.st_size < offset:
                    offset = 0
                file.seek(offset)
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return []
        self._next = (found.st_ino, offset + len(whole) + 1 if whole else offset)
        return [json.loads(line) for line in whole.split(b"\n") if line.strip()]

    def accept(self) -> None:
        """What was read is stored; go on behind it."""
        self._position = self._next

    def start_over(self) -> None:
        """Read everything again."""
        self._position = (0, 0)


class Follower:
    """What a trainer has done since the last look."""

    def __init__(self, directory: RunDir) -> None:
        self.dir = directory
        self._metrics = Tail(directory.metrics_file)
        self._stored: dict[str, str] = {}  # file name of a sample's picture -> its name in the storage
        self._signs: object = None

    def look(self) -> News | None:
        """The news, or None if there are none. `accept` it when it is stored."""
        news = News(
            state=self.state(),
            metrics=self._metrics.read(),
            samples=[self._store_picture(row) for row in read_rows(self.dir.samples_file)],
            log_tail=_end_of(self.dir.log_file),
        )
        news.state.pop("heartbeat", None)  # says that the process lives, not that it gets on
        signs = (news.state, [path.name for path in self.dir.checkpoints()], news.log_tail, len(news.samples))
        news.progress = bool(news.metrics) or signs != self._signs
        if not news.progress:
            return None
        self._new_signs = signs
        return news

    def accept(self) -> None:
        """The news that `look` gave are stored."""
        self._metrics.accept()
        self._signs = self._new_signs

    def start_over(self) -> None:
        """Tell everything again: a database that was away may have lost what it had promised to keep."""
        self._metrics.start_over()
        self._signs = None

    def state(self) -> dict[str, Any]:
        """state.json; empty before the trainer has written it."""
        path = self.dir.state_file
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def _store_picture(self, row: dict[str, Any]) -> dict[str, Any]:
        if "image" not in row:
            return row
        file = row["image"]
        if file not in self._stored:
            self._stored[file] = Path(storage.put_file(self.dir.path / file, folder="samples").key).name
        return {**row, "image": self._stored[file], "file": file}


class Uploader:
    """Copies the trainer's checkpoints to the storage, so that another machine can go on from there."""

    def __init__(self, directory: RunDir, *, run_id: int, known: set[int]) -> None:
        self.dir = directory
        self.folder = f"runs/{run_id}"
        self.known = known

    def upload(self, record: Callable[..., None]) -> None:
        """Store every new checkpoint, oldest first: the newest never lacks an older one that it names."""
        for path in self.dir.checkpoints():
            step = step_of(path)
            if step in self.known:
                continue
            try:
                stored = storage.put_zip(path, folder=self.folder)
            except FileNotFoundError:
                continue  # the trainer has removed it meanwhile
            record(step, stored, keep={step_of(kept) for kept in self.dir.checkpoints()})
            self.known.add(step)

    def start_over(self) -> None:
        """Store and record every checkpoint again."""
        self.known.clear()


def _end_of(path: Path) -> str:
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL))
        return file.read().decode("utf-8", "replace")
