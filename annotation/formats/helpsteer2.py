"""HelpSteer2: `prompt, response` and five ratings from 0 to 4. Rows that follow one another with the same
prompt are one group; a response that comes again there was rated by one more person.
"""

from collections.abc import Iterator
from typing import Any, Final

from annotation.formats.fitting import Holds
from annotation.formats.reading import make_group, need, number_of, rest_of, with_meta

Row = dict[str, Any]
ASPECTS: Final = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
HOLDS = Holds(
    answers=frozenset({"ratings"}),
    prompts="plain",
    texts="plain",
    modalities=("text",),
    ratings=frozenset(ASPECTS),
    meta=True,
)


def key(row: Row) -> object:
    """Rows with an equal key that follow one another belong together."""
    return row.get("prompt")


def read(rows: list[Row], *, content: str) -> list[Row]:
    """The rows of one prompt as a group. Raises `RowError`."""
    ratings: dict[str, list[Row]] = {}
    meta: Row = {}
    for row in rows:
        need(row, "prompt", "response")
        found = {name: number_of(row[name], name) for name in ASPECTS if row.get(name) is not None}
        ratings.setdefault(row["response"], []).append(found)
        meta |= rest_of(row, "prompt", "response", *ASPECTS)
    people = max(map(len, ratings.values()))
    judgements = []
    for number in range(people):
        said = [of[number] if number < len(of) else {} for of in ratings.values()]
        if any(said):
            judgements.append({"annotator": f"import {number + 1}" if number else "import", "ratings": said})
    return [
        make_group(
            rows[0]["prompt"],
            list(ratings),
            content=content,
            names=["response"] * len(ratings),
            judgements=judgements,
            meta=meta,
        )
    ]


def write(group: Row) -> Iterator[Row]:
    """For each judgement a row for each candidate."""
    for judgement in group["judgements"]:
        for item, ratings in zip(group["candidates"], judgement["ratings"], strict=True):
            yield with_meta({"prompt": group["prompt"], "response": item["text"], **(ratings or {})}, group)
