"""UltraFeedback: `source, instruction, models, completions`, each completion with its `annotations`, an
aspect and its `Rating` each, and an `overall_score`.

Its ratings come from a language model, so they are read as judgements of the kind `judge`. What else stands
in the row or in a completion is kept in `meta`.
"""

from collections.abc import Iterator
from typing import Any, Final

from annotation.formats.fitting import Holds
from annotation.formats.reading import (
    list_of,
    make_group,
    need,
    number_of,
    object_of,
    only_row,
    rest_of,
    with_meta,
)

Row = dict[str, Any]
HOLDS = Holds(
    answers=frozenset({"ratings"}),
    prompts="plain",
    texts="plain",
    modalities=("text",),
    kinds=("regular", "review", "judge"),
    sources=True,
    meta=True,
)
JUDGE: Final = "ultrafeedback"
OVERALL: Final = "overall_score"


def read(rows: list[Row], *, content: str) -> list[Row]:
    """A row as a group. Raises `RowError`."""
    row = only_row(rows)
    need(row, "instruction", "completions")
    completions = [
        object_of(item, f"completions.{index}")
        for index, item in enumerate(list_of(row["completions"], "completions"))
    ]
    models = row.get("models") or []
    sources = [
        item.get("model") or (models[i] if i < len(models) else "") for i, item in enumerate(completions)
    ]
    ratings = [_ratings(item, f"completions.{index}") for index, item in enumerate(completions)]
    meta = rest_of(row, "instruction", "completions", "models")
    beside = [rest_of(item, "response", "model", OVERALL, "annotations") for item in completions]
    if any(beside):
        meta["completions"] = beside
    return [
        make_group(
            row["instruction"],
            [item.get("response") for item in completions],
            content=content,
            names=[f"completions.{index}.response" for index in range(len(completions))],
            judgements=[{"annotator": JUDGE, "kind": "judge", "ratings": ratings}] if any(ratings) else [],
            sources=sources,
            meta=meta,
        )
    ]


def _ratings(completion: Row, field: str) -> Row:
    found = {}
    for aspect, said in object_of(completion.get("annotations") or {}, f"{field}.annotations").items():
        rating = said.get("Rating") if isinstance(said, dict) else said
        if rating not in (None, "", "N/A"):
            found[aspect] = number_of(rating, f"{field}.annotations.{aspect}.Rating")
    if completion.get(OVERALL) not in (None, "N/A"):
        found[OVERALL] = number_of(completion[OVERALL], f"{field}.{OVERALL}")
    return found


def write(group: Row) -> Iterator[Row]:
    """A row for each judgement."""
    meta = dict(group.get("meta", {}))
    beside = meta.pop("completions", None)
    candidates = group["candidates"]
    if not (isinstance(beside, list) and len(beside) == len(candidates)):
        beside = [{}] * len(candidates)
    for judgement in group["judgements"]:
        completions = [
            _completion(item, ratings or {}, extra)
            for item, ratings, extra in zip(candidates, judgement["ratings"], beside, strict=True)
        ]
        own = {"instruction": group["prompt"], "completions": completions}
        own["models"] = [item.get("source", "") for item in candidates]
        yield with_meta(own, {"meta": meta})


def _completion(item: Row, ratings: Row, extra: Row) -> Row:
    annotations = {name: {"Rating": str(value)} for name, value in ratings.items() if name != OVERALL}
    own = {"model": item.get("source", ""), "response": item["text"], "annotations": annotations}
    return {**extra, **own, **({OVERALL: ratings[OVERALL]} if OVERALL in ratings else {})}
