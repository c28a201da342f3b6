"""Label Studio: tasks with `data`, `annotations` and `predictions`, as its JSON export writes them.

The prompt and the candidates are found in `data` by their usual names, or as a list of items. Controls become
answers: Pairwise and Choices the choice, Ranker the ranking, Rating and Number ratings, Choices named `tags`,
`thumbs`, `rubric`; TextArea the critique, or per candidate the correction; Labels, RectangleLabels and
KeyPointLabels marks. Predictions are judgements of the kind `judge`; `ground_truth` is gold. Results of other
controls are kept in `meta`. Written: tasks with the same controls.
"""

from collections.abc import Iterator
from typing import Any, Final

from annotation.formats.fitting import Holds
from annotation.formats.ls_results import read_results, write_results
from annotation.formats.reading import (
    find_candidates,
    find_prompt,
    list_of,
    make_group,
    number_of,
    object_of,
    only_row,
    rest_of,
    text_of,
)
from annotation.formats.schema import RowError

Row = dict[str, Any]
HOLDS = Holds(
    answers=frozenset(
        {"choice", "tie", "both_bad", "strength", "aspects", "turns", "ranking", "partial", "ratings",
         "thumbs", "rubric", "tags", "critique", "corrections", "span", "box", "point"}
    ),
    facts=frozenset({"annotator", "kind", "seconds", "at"}),
    sources=True,
    meta=True,
    unjudged=True,
    kinds=("regular", "review", "gold", "judge"),
)  # fmt: skip
LISTS: Final = ("items", "candidates", "answers", "responses", "completions", "images", "options")
CONTENT: Final = ("text", "body", "html", "image", "content", "title")


def read(rows: list[Row], *, content: str) -> list[Row]:
    """A task as a group. Raises `RowError`."""
    task = only_row(rows)
    data = object_of(task["data"], "data") if "data" in task else task
    prompt = find_prompt(data)
    names, contents, sources = _candidates(data)
    if len(names) == 0:
        raise RowError("data", "has no columns that look like candidates, such as text1 and text2, or items")
    meta = rest_of(data, prompt, *names, *(name for name in LISTS if name in data), "sources")
    kept: list[Row] = []
    judgements = [
        judgement
        for said, kind in (("annotations", "regular"), ("predictions", "judge"))
        for number, item in enumerate(list_of(task.get(said) or [], said))
        if (
            judgement := _judgement(
                object_of(item, f"{said}.{number}"), kind, names, kept, f"{said}.{number}"
            )
        )
    ]
    if kept:
        meta["results"] = kept
    if task.get("meta"):
        meta |= object_of(task["meta"], "meta")
    fields = [f"data.{name}" for name in names]
    return [
        make_group(
            text_of(data[prompt], f"data.{prompt}"),
            contents,
            content=content,
            names=fields,
            judgements=judgements,
            sources=sources,
            meta=meta,
        )
    ]


def _candidates(data: Row) -> tuple[list[str], list[Any], list[Any]]:
    """The names by which results call the candidates, the contents, and the sources."""
    for name in LISTS:
        if isinstance(data.get(name), list) and data[name]:
            items = data[name]
            ids = [
                str(item.get("id", index)) if isinstance(item, dict) else str(index)
                for index, item in enumerate(items)
            ]
            return ids, [_content(item, f"data.{name}") for item in items], data.get("sources") or []
    names = find_candidates(data)
    return names, [text_of(data[name], f"data.{name}") for name in names], data.get("sources") or []


def _content(item: Any, field: str) -> Any:
    if not isinstance(item, dict):
        return item
    found = next((item[name] for name in CONTENT if item.get(name)), None)
    if found is None:
        raise RowError(field, f"has an item without {' or '.join(CONTENT)}")
    return text_of(found, field)


def _judgement(item: Row, kind: str, names: list[str], kept: list[Row], field: str) -> Row | None:
    """One annotation or prediction; None for one that was skipped or says nothing that is known."""
    if item.get("was_cancelled"):
        return None
    results = list_of(item.get("result") or [], f"{field}.result")
    answers = read_results(results, names, kept, f"{field}.result")
    if not answers:
        return None
    who = item.get("model_version") if kind == "judge" else item.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who.get("username") or who.get("id")
    judgement = {"annotator": str(who if who not in (None, "") else "import")[:140], "kind": kind, **answers}
    if item.get("ground_truth") and kind == "regular":
        judgement["kind"] = "gold"
    if item.get("lead_time") is not None:
        judgement["seconds"] = float(number_of(item["lead_time"], f"{field}.lead_time"))
    if item.get("created_at"):
        judgement["at"] = item["created_at"]
    return judgement


def write(group: Row) -> Iterator[Row]:
    """A task. Two candidates are `text1` and `text2` (or `image1`, …), others a list of items."""
    candidates = group["candidates"]
    stem = "image" if "image" in candidates[0] else "text"
    names = [f"{stem}{index + 1}" for index in range(len(candidates))]
    contents = [item[stem] for item in candidates]
    data: Row = {"prompt": group["prompt"]}
    if len(candidates) == 2:
        data |= dict(zip(names, contents, strict=True))
    else:
        data["items"] = [{"id": name, stem: text} for name, text in zip(names, contents, strict=True)]
    sources = [item.get("source", "") for item in candidates]
    data |= {"sources": sources} if any(sources) else {}
    task: Row = {"data": data, "annotations": [], "predictions": []}
    if group.get("meta"):
        task["meta"] = group["meta"]
    for judgement in group["judgements"]:
        kind = judgement.get("kind", "regular")
        item: Row = {"result": write_results(judgement, names)}
        item |= {"created_at": judgement["at"]} if "at" in judgement else {}
        item |= {"lead_time": judgement["seconds"]} if "seconds" in judgement else {}
        if kind == "judge":
            task["predictions"].append({**item, "model_version": judgement.get("annotator", "import")})
            continue
        item |= {"completed_by": judgement.get("annotator", "import"), "was_cancelled": False}
        item |= {"ground_truth": kind == "gold"}
        task["annotations"].append(item)
    yield task
