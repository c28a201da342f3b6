"""Pick-a-Pic: `caption`, two pictures, and `label_0`, `label_1` (1 for the better, one half each for a
tie).

A picture is the bytes in `jpg_0` (Parquet) or the name of a file there (zip); else the address in
`image_0_url`, which is fetched only where the site allows it. `are_different`, `ranking_id`, … are kept in
`meta`.
"""

from collections.abc import Iterator
from typing import Any, Final

from annotation.formats.fitting import Holds
from annotation.formats.reading import make_group, need, number_of, only_row, rest_of, with_meta
from annotation.formats.schema import RowError

Row = dict[str, Any]
HOLDS = Holds(
    answers=frozenset({"choice", "tie"}),
    facts=frozenset({"annotator", "at", "order"}),
    prompts="plain",
    candidates=(2, 2),
    pairs=True,
    modalities=("image",),
    sources=True,
    meta=True,
)
OWN: Final = (
    "caption", "jpg_0", "jpg_1", "label_0", "label_1", "has_label", "model_0", "model_1", "user_id",
    "created_at",
)  # fmt: skip


def read(rows: list[Row], *, content: str) -> list[Row]:
    """A row as a group. Raises `RowError`."""
    row = only_row(rows)
    need(row, "caption")
    pictures = [row.get(f"jpg_{side}") or row.get(f"image_{side}_url") for side in (0, 1)]
    for side, picture in enumerate(pictures):
        if not picture:
            raise RowError(f"jpg_{side}", "is missing, and so is the picture's address")
    judgements = [_judgement(row)] if row.get("has_label", True) not in (False, 0, "False", "0") else []
    return [
        make_group(
            row["caption"],
            pictures,
            content=content,
            names=["jpg_0", "jpg_1"],
            judgements=judgements,
            sources=[row.get("model_0"), row.get("model_1")],
            meta=rest_of(row, *OWN),
        )
    ]


def _judgement(row: Row) -> Row:
    need(row, "label_0", "label_1")
    labels = tuple(number_of(row[name], name) for name in ("label_0", "label_1"))
    choices = {(1, 0): 0, (0, 1): 1, (0.5, 0.5): "tie"}
    if labels not in choices:
        raise RowError(
            "label_0", f"and label_1 are {labels[0]} and {labels[1]}; must be 1 and 0, or 0.5 each"
        )
    judgement: Row = {"choice": choices[labels], "order": [0, 1]}
    judgement |= {"annotator": str(row["user_id"])[:140]} if row.get("user_id") is not None else {}
    return judgement | ({"at": row["created_at"]} if row.get("created_at") else {})


def write(group: Row) -> Iterator[Row]:
    """A row for each judgement; picture 0 is what stood on the left."""
    for judgement in group["judgements"]:
        sides = judgement.get("order") or [0, 1]
        left, right = (group["candidates"][index] for index in sides)
        choice = judgement["choice"]
        labels = [0.5, 0.5] if choice == "tie" else [float(index == choice) for index in sides]
        own: Row = {"caption": group["prompt"], "jpg_0": left["image"], "jpg_1": right["image"]}
        own |= {"label_0": labels[0], "label_1": labels[1], "has_label": True}
        own |= {"model_0": left.get("source", ""), "model_1": right.get("source", "")}
        own |= {"user_id": judgement.get("annotator", "import")}
        yield with_meta(own | ({"created_at": judgement["at"]} if "at" in judgement else {}), group)
