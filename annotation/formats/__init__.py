"""Files in and out: one module per format, and what they share.

A format reads a JSON row into a group (`annotation.formats.schema`) and writes groups as rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from annotation.errors import Invalid
from annotation.formats import groups, trl

Row = dict[str, Any]
PLANNED = (
    "label-studio", "argilla", "arena", "pick-a-pic", "hpdv2", "imagereward", "hh-rlhf", "ultrafeedback",
    "helpsteer2", "helpsteer3", "oasst", "csv",
)  # fmt: skip


@dataclass(frozen=True)
class Format:
    """`read(row, content=…)` gives a group, `content` being "text" or "image"; `write(group)` its rows.

    `write` counts what it cannot hold in the dictionary it is given.
    """

    read: Callable[..., Row]
    write: Callable[[Row, dict[str, int]], Iterator[Row]]


FORMATS = {"groups": Format(groups.read, groups.write), "trl": Format(trl.read, trl.write)}


def find_format(name: str) -> Format:
    """The format of that name. Raises `Invalid` that names the supported ones."""
    if name in FORMATS:
        return FORMATS[name]
    problem = f"not yet: {name}" if name in PLANNED else f"{name!r} is no format"
    raise Invalid({"format": f"{problem}; supported: {', '.join(FORMATS)}."})
