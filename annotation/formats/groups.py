"""The house's own format: one group per row, with everything that is known of it."""

from collections.abc import Iterator
from typing import Any

from annotation.formats.fitting import ANSWERS, FACTS, KINDS, Holds
from annotation.formats.reading import only_row
from annotation.formats.schema import check_group

Row = dict[str, Any]
HOLDS = Holds(
    prompt_pictures=True,
    answers=ANSWERS,
    facts=FACTS,
    kinds=KINDS,
    sources=True,
    meta=True,
    reference=True,
    unjudged=True,
)


def read(rows: list[Row], *, content: str) -> list[Row]:
    """A group row as it is. Raises `RowError`."""
    return [check_group(only_row(rows), content=content)]


def write(group: Row) -> Iterator[Row]:
    """The group row."""
    yield group
