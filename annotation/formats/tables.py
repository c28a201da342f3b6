"""Tables as rows: Parquet by batches, CSV by records."""

import csv
import json
import math
import re
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import IO, Any, Final

import pyarrow
import pyarrow.parquet

from annotation.formats.records import MAX_ROW, Record, UnreadableFile, check_strings, without_mark
from annotation.formats.schema import RowError

BATCH: Final = 64  # rows at once; pictures may lie in them
BUFFER: Final = 1024**2  # bytes read ahead of each column
JSON_MARK: Final = b"tiebreak"  # metadata of a Parquet column that holds JSON texts
FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")  # what a spreadsheet may take for a formula

csv.field_size_limit(MAX_ROW)


def open_parquet(file: IO[bytes]) -> pyarrow.parquet.ParquetFile:
    """The table in a file. Raises `UnreadableFile`."""
    try:
        return pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER)
    except (pyarrow.ArrowException, OSError) as error:
        raise UnreadableFile(f"The Parquet file is damaged ({error}); write it again.") from error


def read_parquet(file: IO[bytes], *, position: int = 0, number: int = 0) -> Iterator[Record]:
    """The rows behind the first `position` ones."""
    table = open_parquet(file)
    as_json = {field.name for field in table.schema_arrow if (field.metadata or {}).get(JSON_MARK) == b"json"}
    groups, skip = _groups_from(table, position)
    try:
        for batch in table.iter_batches(batch_size=BATCH, row_groups=groups):
            if skip >= len(batch):
                skip -= len(batch)
                continue
            for row in batch.slice(skip).to_pylist():
                number += 1
                yield _parquet_record(number, row, as_json)
            skip = 0
    except (pyarrow.ArrowException, OSError) as error:
        raise UnreadableFile(f"The Parquet file is damaged after row {number} ({error}).") from error


def _groups_from(table: pyarrow.parquet.ParquetFile, position: int) -> tuple[list[int], int]:
    """The row groups in which the rows behind `position` lie, and how many to skip in the first of them."""
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if position < rows:
            return list(range(group, table.num_row_groups)), position
        position -= rows
    return [], 0


def _parquet_record(number: int, row: dict[str, Any], as_json: set[str]) -> Record:
    try:
        for name in as_json:
            if row[name] is not None:
                row[name] = json.loads(row[name])
        plain = {name: _plain(value, name) for name, value in row.items() if value is not None}
        check_strings(plain, "")
    except RowError as error:
        return Record(number, number, 0, None, error)
    except ValueError as error:
        return Record(number, number, 0, None, RowError("", f"A column that holds JSON does not: {error}"))
    return Record(number, number, _weight(plain), plain)


def _plain(value: Any, path: str) -> Any:
    """An Arrow value as JSON has it; bytes stay bytes, for pictures."""
    if isinstance(value, dict):
        return {name: _plain(inner, f"{path}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{path}.{index}") for index, inner in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError(path, f"{value} is not a number that can be kept")
    if isinstance(value, datetime | date):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value


def _weight(value: Any) -> int:
    """About how many bytes lie in a row."""
    if isinstance(value, dict):
        return sum(map(_weight, value.values()))
    if isinstance(value, list):
        return sum(map(_weight, value))
    return len(value) if isinstance(value, str | bytes) else 8


def read_csv(file: IO[bytes], *, position: int = 0, number: int = 0) -> Iterator[Record]:
    """The rows from a byte position on; the first line, of names, is number 1. Empty cells are left out."""
    lines = _Lines(file)
    header = [unguarded(name) for name in next(csv.reader(lines), ())]
    if not any(header):
        raise UnreadableFile("The file has no first line with the columns' names.")
    if len(set(header)) != len(header):
        raise UnreadableFile("Two columns of the file have the same name.")
    if position:
        lines.go_to(position)
    number = max(number, 1)
    reader = csv.reader(lines, strict=True)
    while True:
        start = lines.position
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, UnicodeDecodeError) as error:
            number += 1
            yield Record(number, lines.position, 0, None, RowError("", f"The line is not CSV: {error}."))
            reader = csv.reader(lines, strict=True)
            continue
        number += 1
        yield _csv_record(number, lines.position, lines.position - start, header, cells)


class _Lines:
    """The decoded lines of a file, and how far they were read."""

    def __init__(self, file: IO[bytes]) -> None:
        file.seek(0)
        self._file, self.position = file, 0

    def go_to(self, position: int) -> None:
        self._file.seek(position)
        self.position = position

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        raw = self._file.readline(MAX_ROW + 1)
        if not raw:
            raise StopIteration
        start, self.position = self.position, self.position + len(raw)
        return (without_mark(raw) if start == 0 else raw).decode()


def _csv_record(number: int, end: int, size: int, header: list[str], cells: list[str]) -> Record:
    if not cells:
        return Record(number, end, size, None)
    if len(cells) > len(header):
        reason = f"has {len(cells)} cells for {len(header)} columns"
        return Record(number, end, size, None, RowError("", f"The line {reason}."))
    row = {name: unguarded(cell) for name, cell in zip(header, cells, strict=False) if name and cell != ""}
    if any("\x00" in cell for cell in cells):
        return Record(number, end, size, None, RowError("", "The line contains a NUL character."))
    return Record(number, end, size, row)


def guarded(cell: str) -> str:
    """A text that no spreadsheet runs: an apostrophe before what may be a formula."""
    return "'" + cell if FORMULA.match(cell) else cell


def unguarded(cell: str) -> str:
    """What `guarded` was given."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell
