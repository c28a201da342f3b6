"""Rows as files: JSONL, one JSON array, CSV or Parquet, written in constant memory from JSONL.

CSV and Parquet need to know their columns before the first row, so the rows are read twice.
"""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow
import pyarrow.parquet

from annotation.formats.tables import JSON_MARK, guarded

Row = dict[str, Any]
CONTAINERS: Final = ("jsonl", "json", "csv", "parquet")
BATCH: Final = 1000
ROW_GROUP: Final = 10_000
MESSAGES: Final = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))


def pack(
    rows: Path, container: str, *, pictures: tuple[str, ...] = (), open_picture: Callable[[str], bytes]
) -> Path:
    """A file beside the JSONL file `rows`, with the container's ending.

    In Parquet the columns named in `pictures` hold the bytes that `open_picture(name)` gives.
    """
    target = rows.with_suffix(f".{container}")
    if container == "json":
        _pack_json(rows, target)
    elif container == "csv":
        _pack_csv(rows, target)
    elif container == "parquet":
        _pack_parquet(rows, target, pictures, open_picture)
    return target


def _read(rows: Path) -> Iterator[Row]:
    with rows.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _pack_json(rows: Path, target: Path) -> None:
    with rows.open(encoding="utf-8") as source, target.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, line in enumerate(source):
            file.write((",\n" if number else "\n") + line.rstrip("\n"))
        file.write("\n]\n")


def _pack_csv(rows: Path, target: Path) -> None:
    columns: dict[str, None] = {}
    for row in _read(rows):
        columns |= dict.fromkeys(row)
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(guarded(name) for name in columns)
        for row in _read(rows):
            writer.writerow([_cell(row.get(name)) for name in columns])


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return guarded(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | bool) else value


def _pack_parquet(
    rows: Path, target: Path, pictures: tuple[str, ...], open_picture: Callable[[str], bytes]
) -> None:
    schema = _schema_of(rows, pictures)
    as_json = {field.name for field in schema if field.metadata}
    with pyarrow.parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        batch: list[Row] = []
        for row in _read(rows):
            row |= {name: json.dumps(row[name], ensure_ascii=False) for name in as_json & row.keys()}
            row |= {name: open_picture(row[name]) for name in pictures if row.get(name)}
            batch.append(row)
            if len(batch) >= (BATCH if not pictures else 50):
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch = []
        if batch:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))


def _schema_of(rows: Path, pictures: tuple[str, ...]) -> pyarrow.Schema:
    """The type that all values of a column share; JSON as text, and marked so, where they share none."""
    kinds: dict[str, set[str]] = {}
    for row in _read(rows):
        for name, value in row.items():
            kinds.setdefault(name, set()).add(_kind(value))
    return pyarrow.schema([_field(name, found - {"null"}, name in pictures) for name, found in kinds.items()])


def _field(name: str, kinds: set[str], is_picture: bool) -> pyarrow.Field:
    if is_picture:
        return pyarrow.field(name, pyarrow.binary())
    kind = (
        "float"
        if kinds == {"int", "float"}
        else "empty"
        if not kinds
        else kinds.pop()
        if len(kinds) == 1
        else ""
    )
    types = {
        "text": pyarrow.string(),
        "bool": pyarrow.bool_(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
        "texts": pyarrow.list_(pyarrow.string()),
        "messages": MESSAGES,
        "empty": pyarrow.null(),
    }
    if kind in types:
        return pyarrow.field(name, types[kind])
    return pyarrow.field(name, pyarrow.string(), metadata={JSON_MARK: b"json"})


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return "texts"
        plain = all(isinstance(item, dict) and item.keys() == {"role", "content"} for item in value)
        if plain and all(isinstance(text, str) for item in value for text in item.values()):
            return "messages"
        return "json"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "json"
    return {str: "text", int: "int", float: "float", type(None): "null"}.get(type(value), "json")
