"""HPDv2. Read: training rows, `prompt, file_path, human_preference` (1 for the better of two); and test rows,
`prompt, image_path, rank, raw_annotations` with each person's ranks. Written: the former for a choice of two,
the latter for everything else.
"""

from collections.abc import Iterator
from typing import Any

from annotation.formats.fitting import Holds
from annotation.formats.reading import (
    list_of,
    make_group,
    need,
    object_of,
    only_row,
    ranks_of,
    rest_of,
    tiers_of,
    with_meta,
)
from annotation.formats.schema import RowError

Row = dict[str, Any]
HOLDS = Holds(
    answers=frozenset({"ranking"}),
    facts=frozenset({"annotator"}),
    prompts="plain",
    candidates=(2, 100),
    modalities=("image",),
    meta=True,
)


def read(rows: list[Row], *, content: str) -> list[Row]:
    """A row as a group with a ranking for each annotator. Raises `RowError`."""
    row = only_row(rows)
    column = next((name for name in ("file_path", "image_path") if name in row), None)
    if column is None:
        raise RowError("file_path", "is missing")
    need(row, "prompt")
    pictures = list_of(row[column], column)
    judgements = _judgements(row, len(pictures))
    names = [f"{column}.{index}" for index in range(len(pictures))]
    meta = rest_of(row, "prompt", column, "human_preference", "rank", "raw_annotations")
    return [
        make_group(row["prompt"], pictures, content=content, names=names, judgements=judgements, meta=meta)
    ]


def _judgements(row: Row, k: int) -> list[Row]:
    if "human_preference" in row:
        liked = list_of(row["human_preference"], "human_preference", k)
        return [{"ranking": tiers_of([-int(bool(value)) for value in liked], "human_preference")}]
    if "raw_annotations" in row:
        found = []
        for number, item in enumerate(list_of(row["raw_annotations"], "raw_annotations")):
            field = f"raw_annotations.{number}"
            ranks = list_of(object_of(item, field).get("rank"), f"{field}.rank", k)
            who = str(item.get("user_hash") or f"import {number + 1}")[:140]
            found.append({"annotator": who, "ranking": tiers_of(ranks, f"{field}.rank")})
        return found
    if "rank" in row:
        return [{"ranking": tiers_of(list_of(row["rank"], "rank", k), "rank")}]
    return []


def write(group: Row) -> Iterator[Row]:
    """One row with everybody's ranks; two candidates and one annotator give a training row."""
    pictures, judgements = [item["image"] for item in group["candidates"]], group["judgements"]
    k, own = len(pictures), {"prompt": group["prompt"]}
    first = judgements[0]
    plain = len(judgements) == 1 and first.get("annotator", "import") == "import"
    if k == 2 and plain and len(first["ranking"]) == 2:
        best = first["ranking"][0][0]
        own |= {"file_path": pictures, "human_preference": [int(index == best) for index in range(2)]}
    else:
        ranks = [ranks_of(item["ranking"], k) for item in judgements]
        mean = [sum(column) for column in zip(*ranks, strict=True)]
        own |= {"image_path": pictures, "rank": ranks_of(tiers_of(mean, "rank"), k)}
        own["raw_annotations"] = [
            {"rank": rank, "user_hash": item.get("annotator", "import")}
            for rank, item in zip(ranks, judgements, strict=True)
        ]
    yield with_meta(own, group)
