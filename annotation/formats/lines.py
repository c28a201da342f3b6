"""JSONL, read line by line in bounded memory from any position; a bad line never stops the file."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

from annotation.formats.schema import RowError, describe

MAX_LINE: Final = 8 * 1024**2  # bytes
BOM: Final = b"\xef\xbb\xbf"
OTHER_BOMS: Final = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class UnreadableFile(Exception):
    """The file as a whole cannot be imported; the message says why and what to do."""


@dataclass(frozen=True)
class Line:
    """A line, its one-based number, and where the next one begins. `raw` is None if it was too long."""

    number: int
    raw: bytes | None
    end: int


def read_lines(file: IO[bytes], *, position: int = 0, number: int = 0) -> Iterator[Line]:
    """The lines from a byte position on; `number` lines lie before it."""
    file.seek(position)
    while raw := file.readline(MAX_LINE + 1):
        start, position = position, position + len(raw)
        number += 1
        if len(raw) > MAX_LINE and not raw.endswith(b"\n"):
            position += _skip_rest(file)
            yield Line(number, None, position)
            continue
        if start == 0:
            raw = _without_mark(raw)
        yield Line(number, raw, position)


def _skip_rest(file: IO[bytes]) -> int:
    skipped = 0
    while part := file.readline(1024**2):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _without_mark(raw: bytes) -> bytes:
    for mark, name in OTHER_BOMS.items():
        if raw.startswith(mark):
            raise UnreadableFile(f"The file is {name}; save it as UTF-8 and import it again.")
    return raw.removeprefix(BOM)


def parse_line(raw: bytes | None) -> dict[str, Any] | None:
    """The line's JSON object; None for an empty line. Raises `RowError`."""
    if raw is None:
        raise RowError("", f"The line is longer than {MAX_LINE // 1024**2} MiB.")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise RowError(
            "", f"Byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8."
        ) from error
    if not text.strip():
        return None
    try:
        row = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError as error:
        raise RowError("", "The line is nested too deeply.") from error
    except ValueError as error:
        raise RowError("", f"The line is not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise RowError(
            "", f"The line is {describe(row)}, not an object; the file must have one object per line."
        )
    if "\\u0000" in text or "\\ud" in text.lower():  # rare, and so is the costly look into every string
        _check_strings(row, "")
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits:.30} is too large a number")
    return number


def _check_strings(value: object, path: str) -> None:
    """What JSON can say but Postgres cannot keep: NUL, and half of a surrogate pair."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_string(name, path)
            _check_strings(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_strings(inner, f"{path}.{index}" if path else str(index))
    elif isinstance(value, str):
        _check_string(value, path)


def _check_string(value: str, path: str) -> None:
    if "\x00" in value:
        raise RowError(path, "contains a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise RowError(path, "contains half of a surrogate pair, which is no character")
