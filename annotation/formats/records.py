"""Rows of a file, whatever it is packed in, in bounded memory and from any position; a bad row never stops
it.

A `Record` says where it ends, so that an import can be taken up behind it. Positions are bytes of the
(unpacked) text for JSONL, JSON and CSV, and rows for Parquet.
"""

import json
import math
from typing import Any, Final, NamedTuple

from pydantic_core import from_json

from annotation.formats.schema import RowError, describe

MAX_ROW: Final = 8 * 1024**2  # bytes of one row as text
TOO_LONG: Final = RowError("", f"The line is longer than {MAX_ROW // 1024**2} MiB.")
BOM: Final = b"\xef\xbb\xbf"
OTHER_BOMS: Final = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class UnreadableFile(Exception):
    """The file as a whole cannot be imported; the message says why and what to do."""


class Record(NamedTuple):
    """A row: its one-based number, where the next one begins, its size in bytes, and what it holds.

    `row` is None for an empty line and for a row that cannot be used, of which `error` says why.
    """

    number: int
    end: int
    size: int
    row: dict[str, Any] | None
    error: RowError | None = None


def record_of(number: int, end: int, raw: bytes | None) -> Record:
    """A record from the bytes of its JSON object; None stands for one that was too long."""
    if raw is None:
        return Record(number, end, 0, None, TOO_LONG)
    try:
        return Record(number, end, len(raw), parse_row(raw))
    except RowError as error:
        return Record(number, end, len(raw), None, error)


def parse_row(raw: bytes) -> dict[str, Any] | None:
    """A JSON object; None where there is nothing but white space. Raises `RowError`.

    Most rows are texts alone: those are read five times faster, and all others, and what is wrong with them,
    as Python reads them.
    """
    row = _parse_texts(raw)
    return _parse_any(raw) if row is None else row


def _parse_texts(raw: bytes) -> dict[str, Any] | None:
    """A row of texts and of lists of objects of texts; None for any other."""
    if b"\\u" in raw and (b"\\u0000" in raw or b"\\ud" in raw or b"\\uD" in raw):
        return None
    try:
        row = from_json(raw)
    except ValueError:
        return None
    # Numbers are left to Python: this parser takes one that is too large for infinity.
    return row if type(row) is dict and _has_only_texts(row) else None


def _has_only_texts(row: dict[str, Any]) -> bool:
    for value in row.values():
        if type(value) is str:
            continue
        if type(value) is not list:
            return False
        for item in value:
            if type(item) is not dict:
                return False
            for inner in item.values():
                if type(inner) is not str:
                    return False
    return True


def _parse_any(raw: bytes) -> dict[str, Any] | None:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise RowError(
            "", f"Byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8."
        ) from None
    if not text.strip():
        return None
    try:
        row = _decoder.decode(text.strip())
    except RecursionError:
        raise RowError("", "The line is nested too deeply.") from None
    except ValueError as error:
        raise RowError("", f"The line is not JSON: {error}.") from None
    if not isinstance(row, dict):
        raise RowError(
            "", f"The line is {describe(row)}, not an object; the file must have one object per line."
        )
    if (
        "\\u0000" in text or "\\ud" in text or "\\uD" in text
    ):  # rare, and so is the costly look at every string
        check_strings(row, "")
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits:.30} is too large a number")
    return number


_decoder = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def check_strings(value: object, path: str) -> None:
    """Refuse what JSON can say but Postgres cannot keep: NUL, and half of a surrogate pair."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_string(name, path)
            check_strings(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            check_strings(inner, f"{path}.{index}" if path else str(index))
    elif isinstance(value, str):
        _check_string(value, path)


def _check_string(value: str, path: str) -> None:
    if "\x00" in value:
        raise RowError(path, "contains a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise RowError(path, "contains half of a surrogate pair, which is no character")


def without_mark(raw: bytes) -> bytes:
    """The beginning of a text without its byte order mark. Raises `UnreadableFile` for UTF-16."""
    for mark, name in OTHER_BOMS.items():
        if raw.startswith(mark):
            raise UnreadableFile(f"The file is {name}; save it as UTF-8 and import it again.")
    return raw.removeprefix(BOM)
