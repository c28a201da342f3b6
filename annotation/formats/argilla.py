"""Argilla records, flattened: fields and metadata as columns, and for each question
`{question}.responses`, `.users`, `.status`, `{question}.suggestion`, `.score`, `.agent`.

The prompt and the candidates are found among the fields by their usual names. Questions become answers by
their names: `choice` and `aspect_…` (a candidate's field, "tie", "both_bad"), `strength`, `ranking`,
`tags`, `critique`, and with a candidate's number `helpfulness_1` (a rating), `thumb_1`, `rubric_1`,
`correction_1`, `marks_1` (spans). So are these of other names: ratings without a number where there is one
candidate, one-of-candidates as the choice, rankings of candidates, texts as critique. Suggestions are
judgements of the kind `judge`. Written: the same.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from annotation.formats.fitting import Holds
from annotation.formats.reading import (
    find_candidates,
    find_prompt,
    list_of,
    make_group,
    number_of,
    object_of,
    only_row,
    ranks_of,
    rest_of,
    text_of,
    tiers_of,
    with_meta,
)
from annotation.formats.schema import RowError

Row = dict[str, Any]
HOLDS = Holds(
    answers=frozenset(
        {"choice", "tie", "both_bad", "strength", "aspects", "ranking", "ratings", "thumbs", "rubric", "tags",
         "critique", "corrections", "span"}
    ),
    facts=frozenset({"annotator", "kind"}),
    kinds=("regular", "review", "judge"),
    sources=True,
    meta=True,
    unjudged=True,
    one_judge=True,
)  # fmt: skip
PARTS: Final = (
    ".responses",
    ".responses.users",
    ".responses.status",
    ".suggestion",
    ".suggestion.score",
    ".suggestion.agent",
)
ASPECT: Final = "aspect_"
NUMBERED: Final = re.compile(r"(.+)_(\d{1,3})")
WORDS: Final = ("tie", "both_bad")
UNANSWERED: Final = ("draft", "discarded", "pending")


def read(rows: list[Row], *, content: str) -> list[Row]:
    """A record as a group with a judgement for each user and agent. Raises `RowError`."""
    row = only_row(rows)
    questions = sorted({name.removesuffix(part) for part in PARTS for name in row if name.endswith(part)})
    fields = {name: value for name, value in row.items() if not name.endswith(PARTS)}
    prompt, names = find_prompt(fields), find_candidates(fields)
    if not names:
        raise RowError("response_1", "is missing, and no other fields look like candidates")
    meta = rest_of(fields, prompt, *names, *(f"source_{index + 1}" for index in range(len(names))))
    people: dict[tuple[str, str], Row] = {}
    for question in questions:
        for who, kind, value in _said(row, question):
            judgement = people.setdefault((who, kind), {"annotator": who, "kind": kind})
            if not _add(judgement, question, value, names):
                meta.setdefault(f"{question}.responses", []).append(value)
        if row.get(f"{question}.suggestion.score") is not None:
            meta[f"{question}.suggestion.score"] = row[f"{question}.suggestion.score"]
    return [
        make_group(
            text_of(row[prompt], prompt),
            [text_of(row[name], name) for name in names],
            content=content,
            names=names,
            judgements=[item for item in people.values() if item.keys() > {"annotator", "kind"}],
            sources=[row.get(f"source_{index + 1}") for index in range(len(names))],
            meta=meta,
        )
    ]


def _said(row: Row, question: str) -> Iterator[tuple[str, str, Any]]:
    """Who said what: (name, kind, value)."""
    values = list_of(row.get(f"{question}.responses") or [], f"{question}.responses")
    users = row.get(f"{question}.responses.users") or [f"import {index + 1}" for index in range(len(values))]
    status = row.get(f"{question}.responses.status") or ["submitted"] * len(values)
    for name, found in (("users", users), ("status", status)):
        list_of(found, f"{question}.responses.{name}", len(values))
    for value, who, state in zip(values, users, status, strict=True):
        if value is not None and state not in UNANSWERED:
            yield str(who)[:140], "regular", value
    if row.get(f"{question}.suggestion") is not None:
        agent = row.get(f"{question}.suggestion.agent") or "suggestion"
        yield str(agent)[:140], "judge", row[f"{question}.suggestion"]


def _add(judgement: Row, question: str, value: Any, names: list[str]) -> bool:
    """Add one answer; False if nobody here knows what the question means."""
    found = NUMBERED.fullmatch(question)
    if found and 1 <= int(found[2]) <= len(names):
        return _add_numbered(judgement, found[1], int(found[2]) - 1, value, len(names), question)
    if isinstance(value, list) and value and all(isinstance(item, dict) and "rank" in item for item in value):
        judgement["ranking"] = _ranking(value, names, question)
    elif isinstance(value, str) and (value in names or value in WORDS):
        choice = names.index(value) if value in names else value
        if question.startswith(ASPECT):
            judgement.setdefault("aspects", {})[question.removeprefix(ASPECT)] = {"choice": choice}
        else:
            judgement["choice"] = choice
    elif question == "strength" or (question.startswith("strength_") and not isinstance(value, list)):
        strength = number_of(value, f"{question}.responses")
        if question == "strength":
            judgement["strength"] = strength
        else:
            aspect = question.removeprefix("strength_")
            judgement.setdefault("aspects", {}).setdefault(aspect, {})["strength"] = strength
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        judgement["tags"] = [*judgement.get("tags", []), *value]
    elif isinstance(value, int | float) and not isinstance(value, bool) and len(names) == 1:
        judgement.setdefault("ratings", [{}])[0][question] = value
    elif isinstance(value, str):
        judgement["critique"] = "\n".join(filter(None, [judgement.get("critique"), value]))
    else:
        return False
    return True


def _add_numbered(judgement: Row, name: str, place: int, value: Any, k: int, question: str) -> bool:
    """An answer about one candidate."""
    field = f"{question}.responses"
    if name == "thumb" and value in ("up", "down"):
        judgement.setdefault("thumbs", [None] * k)[place] = int(value == "up")
    elif name == "correction" and isinstance(value, str):
        judgement.setdefault("corrections", [None] * k)[place] = value
    elif name in ("rubric", "rubric_not") and isinstance(value, list):
        ticked = judgement.setdefault("rubric", [{} for _ in range(k)])[place]
        ticked |= dict.fromkeys(map(str, value), name == "rubric")
    elif isinstance(value, list) and all(isinstance(item, dict) and "start" in item for item in value):
        marks = judgement.setdefault("marks", [])
        marks += [_mark(item, place, f"{field}.{number}") for number, item in enumerate(value)]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        judgement.setdefault("ratings", [{} for _ in range(k)])[place][name] = value
    else:
        return False
    return True


def _mark(span: Row, place: int, field: str) -> Row:
    start, end = (number_of(span.get(name), f"{field}.{name}") for name in ("start", "end"))
    mark: Row = {"candidate": place, "type": "span", "start": start, "end": end}
    return mark | ({"category": str(span["label"])} if span.get("label") else {})


def _ranking(value: list[Any], names: list[str], question: str) -> list[list[int]]:
    field, ranks = f"{question}.responses", {}
    for item in value:
        if object_of(item, field).get("value") not in names:
            raise RowError(field, f"{item.get('value')!r:.40} is no candidate")
        ranks[names.index(item["value"])] = item["rank"]
    order = list(ranks)
    return [[order[place] for place in tier] for tier in tiers_of(list(ranks.values()), field)]


def write(group: Row) -> Iterator[Row]:
    """A record."""
    names = [f"response_{index + 1}" for index in range(len(group["candidates"]))]
    own: Row = {"prompt": group["prompt"]}
    own |= {
        name: item.get("text", item.get("image"))
        for name, item in zip(names, group["candidates"], strict=True)
    }
    for index, item in enumerate(group["candidates"], 1):
        own |= {f"source_{index}": item["source"]} if item.get("source") else {}
    for judgement in group["judgements"]:
        who = judgement.get("annotator", "import")
        for question, value in _values(judgement, names):
            first = f"{question}.suggestion" not in own
            if judgement.get("kind") == "judge" and first:
                own |= {f"{question}.suggestion": value, f"{question}.suggestion.agent": who}
                continue
            own.setdefault(f"{question}.responses", []).append(value)
            own.setdefault(f"{question}.responses.users", []).append(who)
            own.setdefault(f"{question}.responses.status", []).append("submitted")
    yield with_meta(own, group)


def _values(judgement: Row, names: list[str]) -> Iterator[tuple[str, Any]]:
    """Question and value of everything that was answered."""

    def named(choice: Any) -> str:
        return names[choice] if isinstance(choice, int) else choice

    if judgement.get("choice") is not None:
        yield "choice", named(judgement["choice"])
    if judgement.get("strength") is not None:
        yield "strength", judgement["strength"]
    for aspect, said in judgement.get("aspects", {}).items():
        yield f"{ASPECT}{aspect}", named(said["choice"])
        if said.get("strength") is not None:
            yield f"strength_{aspect}", said["strength"]
    if judgement.get("ranking"):
        ranks = ranks_of(judgement["ranking"], len(names))
        yield "ranking", [{"value": name, "rank": rank} for name, rank in zip(names, ranks, strict=True)]
    if judgement.get("tags"):
        yield "tags", judgement["tags"]
    if judgement.get("critique"):
        yield "critique", judgement["critique"]
    for place in range(len(names)):
        for question, value in _of_candidate(judgement, place):
            yield f"{question}_{place + 1}", value


def _of_candidate(judgement: Row, place: int) -> Iterator[tuple[str, Any]]:
    def entry(name: str) -> Any:
        return judgement[name][place] if judgement.get(name) else None

    yield from (entry("ratings") or {}).items()
    if entry("thumbs") is not None:
        yield "thumb", "up" if entry("thumbs") else "down"
    for question, ticked in (("rubric", True), ("rubric_not", False)):
        if criteria := [name for name, value in (entry("rubric") or {}).items() if value is ticked]:
            yield question, criteria
    if entry("corrections") is not None:
        yield "correction", entry("corrections")
    spans = [mark for mark in judgement.get("marks", []) if mark["candidate"] == place]
    if spans:
        named = [
            {"start": mark["start"], "end": mark["end"], "label": mark.get("category", "")} for mark in spans
        ]
        yield "marks", named
