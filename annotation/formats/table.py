"""The format `csv`: a table for people and spreadsheets. Candidates and ranks count from 1.

Columns: `prompt`; `candidate_1`, …; `source_1`, …; and for a judgement `annotator`, `kind`, `order` ("2
1"), `choice` (a number, "tie" or "both_bad"), `strength`, `ranking` ("2 > 1 = 3"), `rating_1:helpfulness`,
`thumb_1` ("up", "down"), `tags` ("a; b"), `critique`, `correction_1`, `rubric_1:cites_source` ("yes",
"no"), `seconds`, `at`, `template_version`; other columns are kept in `meta`. A row for each judgement; rows
of the same comparison that follow one another are one group. Also read: candidates under other usual names
(`response_a`, `text1`, `chosen` and `rejected`, `left` and `right`).
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from annotation.formats.fitting import KINDS, Holds
from annotation.formats.reading import find_candidates, find_prompt, make_group, number_of, rest_of
from annotation.formats.schema import RowError

Row = dict[str, Any]
HOLDS = Holds(
    answers=frozenset(
        {"choice", "tie", "both_bad", "strength", "ranking", "partial", "ratings", "thumbs", "tags",
         "critique", "corrections", "rubric"}
    ),
    facts=frozenset({"annotator", "kind", "order", "template_version", "seconds", "at"}),
    prompts="plain",
    texts="plain",
    sources=True,
    meta=True,
    unjudged=True,
    kinds=KINDS,
)  # fmt: skip
SIMPLE: Final = ("annotator", "kind", "critique", "at")
JUDGEMENT: Final = (*SIMPLE, "order", "choice", "strength", "ranking", "tags", "seconds", "template_version")
PER_CANDIDATE: Final = re.compile(r"(rating|thumb|correction|rubric|source)_(\d{1,3})(?::(.+))?")
THUMBS: Final = {"up": 1, "down": 0, "1": 1, "0": 0, "true": 1, "false": 0}
TICKS: Final = {"yes": True, "no": False, "true": True, "false": False, "1": True, "0": False}
LISTS: Final = {"thumbs": "thumb", "corrections": "correction"}
KEYED: Final = {"ratings": "rating", "rubric": "rubric"}
MARK: Final = ";"


def key(row: Row) -> object:
    """Rows of the same comparison."""
    names = find_candidates(row)
    return [row.get("prompt"), *(row[name] for name in names)] if names else object()


def read(rows: list[Row], *, content: str) -> list[Row]:
    """The rows of one comparison as a group; a second by the same person begins one. Raises `RowError`."""
    groups: list[Row] = []
    for row in rows:
        group = _read(row, content=content)
        who = {
            (item["annotator"], item["kind"]) for last in groups[-1:] for item in last.get("judgements", [])
        }
        if groups and all(
            (item["annotator"], item["kind"]) not in who for item in group.get("judgements", [])
        ):
            groups[-1].setdefault("judgements", []).extend(group.get("judgements", []))
        else:
            groups.append(group)
    return groups


def _read(row: Row, *, content: str) -> Row:
    prompt, names = find_prompt(row), find_candidates(row)
    if not names:
        raise RowError("candidate_1", "is missing, and no other columns look like candidates")
    judgement = _judgement(row, len(names))
    if set(names) == {"chosen", "rejected"} and "choice" not in judgement:
        judgement["choice"] = 0
    beside = {name: found for name in row if (found := PER_CANDIDATE.fullmatch(name))}
    sources = [row.get(f"source_{index + 1}") for index in range(len(names))]
    said = judgement.keys() - {"annotator", "kind", "order", "seconds", "at", "template_version"}
    return make_group(
        row[prompt],
        [row[name] for name in names],
        content=content,
        names=names,
        judgements=[judgement] if said else [],
        sources=sources,
        meta=rest_of(row, prompt, *names, *JUDGEMENT, *beside),
    )


def _judgement(row: Row, k: int) -> Row:
    judgement: Row = {name: row[name] for name in SIMPLE if name in row}
    parts: dict[str, Callable[[str], Any]] = {
        "choice": lambda cell: cell if cell in ("tie", "both_bad") else _place(cell, "choice"),
        "order": lambda cell: [_place(part, "order") for part in cell.split()],
        "ranking": lambda cell: [
            [_place(part, "ranking") for part in tier.split("=")] for tier in cell.split(">")
        ],
        "strength": lambda cell: number_of(cell, "strength"),
        "template_version": lambda cell: number_of(cell, "template_version"),
        "seconds": lambda cell: float(number_of(cell, "seconds")),
        "tags": lambda cell: _names(cell),
    }
    for name, part in parts.items():
        if name in row:
            judgement[name] = part(str(row[name]))
    return judgement | _per_candidate(row, k)


def _per_candidate(row: Row, k: int) -> Row:
    keyed: dict[str, list[Row]] = {"rating": [{} for _ in range(k)], "rubric": [{} for _ in range(k)]}
    lists: dict[str, list[Any]] = {}
    for name, cell in row.items():
        found = PER_CANDIDATE.fullmatch(name)
        if found is None or found[1] == "source":
            continue
        index = int(found[2]) - 1
        if not 0 <= index < k:
            raise RowError(name, f"is about candidate {index + 1} of {k}")
        if found[1] in keyed:
            value = number_of(cell, name) if found[1] == "rating" else _one_of(TICKS, cell, name)
            keyed[found[1]][index][found[3] or found[1]] = value
            continue
        values = lists.setdefault(found[1], [None] * k)
        values[index] = _one_of(THUMBS, cell, name) if found[1] == "thumb" else cell
    judgement = {name: lists[one] for name, one in LISTS.items() if one in lists}
    return judgement | {name: keyed[one] for name, one in KEYED.items() if any(keyed[one])}


def _one_of(known: Row, cell: Any, name: str) -> Any:
    if str(cell).lower() not in known:
        raise RowError(name, f"is {cell!r:.40}; must be one of {', '.join(known)}")
    return known[str(cell).lower()]


def _place(cell: str, field: str) -> int:
    place = number_of(cell.strip(), field)
    if not isinstance(place, int) or place < 1:
        raise RowError(field, f"{cell.strip()!r:.40} is no candidate; they count from 1")
    return place - 1


def _names(cell: Any) -> list[str]:
    return [part.strip() for part in str(cell).split(MARK) if part.strip()]


def write(group: Row) -> Iterator[Row]:
    """A row for each judgement, or one without."""
    base = {"prompt": group["prompt"]}
    for index, item in enumerate(group["candidates"], 1):
        base[f"candidate_{index}"] = item.get("text", item.get("image"))
        if item.get("source"):
            base[f"source_{index}"] = item["source"]
    meta = {name: value for name, value in group.get("meta", {}).items() if name not in base}
    for judgement in group["judgements"] or [{}]:
        own = _cells(judgement)
        yield base | own | {name: value for name, value in meta.items() if name not in own}


def _cells(judgement: Row) -> Row:
    cells: Row = {
        name: judgement[name]
        for name in (*SIMPLE, "seconds", "strength", "template_version")
        if name in judgement
    }
    choice = judgement.get("choice")
    if choice is not None:
        cells["choice"] = choice + 1 if isinstance(choice, int) else choice
    if "order" in judgement:
        cells["order"] = " ".join(str(index + 1) for index in judgement["order"])
    if "ranking" in judgement:
        tiers = (" = ".join(str(index + 1) for index in tier) for tier in judgement["ranking"])
        cells["ranking"] = " > ".join(tiers)
    if judgement.get("tags"):
        cells["tags"] = f"{MARK} ".join(judgement["tags"])
    for name, one in KEYED.items():
        for index, said in enumerate(judgement.get(name) or [], 1):
            for aspect, value in (said or {}).items():
                cells[f"{one}_{index}:{aspect}"] = (
                    {True: "yes", False: "no"}[value] if one == "rubric" else value
                )
    for name, one in LISTS.items():
        for index, value in enumerate(judgement.get(name) or [], 1):
            if value is not None:
                cells[f"{one}_{index}"] = {1: "up", 0: "down"}[value] if one == "thumb" else value
    return cells
