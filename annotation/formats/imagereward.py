"""ImageReward: `id, prompt, generations, ranking`, a rank for each picture, of which 1 is best and equal
ones tie.
"""

from collections.abc import Iterator
from typing import Any

from annotation.formats.fitting import Holds
from annotation.formats.reading import (
    list_of,
    make_group,
    need,
    only_row,
    ranks_of,
    rest_of,
    tiers_of,
    with_meta,
)

Row = dict[str, Any]
HOLDS = Holds(
    answers=frozenset({"ranking"}), prompts="plain", candidates=(2, 100), modalities=("image",), meta=True
)


def read(rows: list[Row], *, content: str) -> list[Row]:
    """A row as a group. Raises `RowError`."""
    row = only_row(rows)
    need(row, "prompt", "generations", "ranking")
    pictures = list_of(row["generations"], "generations")
    ranks = list_of(row["ranking"], "ranking", len(pictures))
    names = [f"generations.{index}" for index in range(len(pictures))]
    judgement = {"ranking": tiers_of(ranks, "ranking")}
    meta = rest_of(row, "prompt", "generations", "ranking")
    return [
        make_group(row["prompt"], pictures, content=content, names=names, judgements=[judgement], meta=meta)
    ]


def write(group: Row) -> Iterator[Row]:
    """A row for each judgement."""
    pictures = [item["image"] for item in group["candidates"]]
    for judgement in group["judgements"]:
        ranks = ranks_of(judgement["ranking"], len(pictures))
        yield with_meta({"prompt": group["prompt"], "generations": pictures, "ranking": ranks}, group)
