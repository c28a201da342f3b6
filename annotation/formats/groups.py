"""The house's own format: one group per row, with everything that is known of it."""

from collections.abc import Iterator
from typing import Any

from annotation.formats.schema import check_group

Row = dict[str, Any]


def read(row: Row, *, content: str) -> Row:
    """A group row as it is. Raises `RowError`."""
    return check_group(row, content=content)


def write(group: Row, left_out: dict[str, int]) -> Iterator[Row]:
    """The group row; one without candidates has nothing to say."""
    if group["candidates"]:
        yield group
    else:
        left_out["prompts without candidates"] = left_out.get("prompts without candidates", 0) + 1
