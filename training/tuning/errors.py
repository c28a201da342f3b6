"""What can end a run besides success, and the exit code of each."""

import errno
from pathlib import Path

EXIT_DONE = 0
EXIT_BAD_INPUT = 1
EXIT_UNEXPECTED = 70
EXIT_DISK_FULL = 74
EXIT_LOCKED = 75
EXIT_CANCELLED = 130
EXIT_INTERRUPTED = 143


class BadInput(Exception):
    """Something that the user gave cannot be used. Shown as one line that names file, line and field.

    ``message`` says what is wrong and what to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
    ) -> None:
        self.message = " ".join(message.split())
        self.file = None if file is None else str(file)
        self.line = line
        self.field = field
        super().__init__(str(self))

    def __str__(self) -> str:
        where = []
        if self.file is not None:
            where.append(self.file)
        if self.line is not None:
            where.append(f"line {self.line}")
        if self.field is not None:
            where.append(self.field)
        return f"{', '.join(where)}: {self.message}" if where else self.message


class Locked(Exception):
    """Another process trains in this run directory."""


class DiskFull(Exception):
    """There was no room for a file. What had been saved before is still there."""


def is_disk_full(error: BaseException) -> bool:
    """Whether a library failed for want of room; safetensors has an exception without a number."""
    number = getattr(error, "errno", None)
    return (
        isinstance(error, DiskFull)
        or number in (errno.ENOSPC, errno.EDQUOT)
        or "No space left on device" in str(error)
    )


class Stopped(Exception):
    """The run was asked to stop, and did. ``status`` is ``cancelled`` or ``interrupted``."""

    def __init__(self, status: str) -> None:
        self.status = status
        super().__init__(status)
