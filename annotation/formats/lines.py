"""JSONL: a JSON object on each line."""

from collections.abc import Iterator
from typing import IO

from annotation.formats.records import MAX_ROW, Record, record_of, without_mark


def read_lines(file: IO[bytes], *, position: int = 0, number: int = 0) -> Iterator[Record]:
    """The rows from a byte position on; `number` lines lie before it."""
    file.seek(position)
    while raw := file.readline(MAX_ROW + 1):
        start, position = position, position + len(raw)
        number += 1
        if len(raw) > MAX_ROW and not raw.endswith(b"\n"):
            position += _skip_rest(file)
            yield record_of(number, position, None)
            continue
        yield record_of(number, position, without_mark(raw) if start == 0 else raw)


def _skip_rest(file: IO[bytes]) -> int:
    skipped = 0
    while part := file.readline(1024**2):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped
