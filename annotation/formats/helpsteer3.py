"""HelpSteer3 preferences: `context, response1, response2, overall_preference` from −3 (the first is much
better) to 3, and each person's `score` and `reasoning` in `individual_preference`. `domain`,
`language`, … are kept in `meta`.
"""

from collections.abc import Iterator
from typing import Any, Final

from annotation.formats.fitting import Holds
from annotation.formats.reading import (
    as_messages,
    list_of,
    make_group,
    need,
    number_of,
    object_of,
    only_row,
    rest_of,
    single,
    text_of,
    with_meta,
)
from annotation.formats.schema import RowError

Row = dict[str, Any]
HOLDS = Holds(
    answers=frozenset({"choice", "tie", "strength", "critique"}),
    prompts="chat",
    texts="plain",
    candidates=(2, 2),
    pairs=True,
    modalities=("text",),
    meta=True,
    needs="choice",
)
PLAIN_STRENGTH: Final = 2  # of a choice without one
FEEDBACK: Final = ("feedback1", "feedback2")


def read(rows: list[Row], *, content: str) -> list[Row]:
    """A row as a group. Raises `RowError`."""
    row = only_row(rows)
    need(row, "context", "response1", "response2")
    context = row["context"]
    prompt = single(text_of(context, "context"), "user") if isinstance(context, list) and context else context
    meta = rest_of(row, "context", "response1", "response2", "overall_preference", "individual_preference")
    people = row.get("individual_preference") or []
    judgements = []
    for number, item in enumerate(list_of(people, "individual_preference")):
        field = f"individual_preference.{number}"
        said = object_of(item, field)
        judgement = {"annotator": f"import {number + 1}", **_choice(said.get("score"), f"{field}.score")}
        judgement |= {"critique": said["reasoning"]} if said.get("reasoning") else {}
        judgements.append(judgement)
    if any(set(item) & set(FEEDBACK) for item in people):
        meta["feedback"] = [[item.get(name) for name in FEEDBACK] for item in people]
    if not people and row.get("overall_preference") is not None:
        judgements = [_choice(row["overall_preference"], "overall_preference")]
    return [
        make_group(
            prompt,
            [row["response1"], row["response2"]],
            content=content,
            names=["response1", "response2"],
            judgements=judgements,
            meta=meta,
        )
    ]


def _choice(value: Any, field: str) -> Row:
    score = number_of(value, field)
    if score not in range(-3, 4):
        raise RowError(field, f"is {score}; must be a whole number from -3 to 3")
    if score == 0:
        return {"choice": "tie"}
    return {"choice": int(score > 0), "strength": int(abs(score))}


def write(group: Row) -> Iterator[Row]:
    """One row with everybody's preference; the overall one is their rounded mean."""
    scores = [_score(item) for item in group["judgements"]]
    if not scores:
        return
    first, second = group["candidates"]
    feedback = group.get("meta", {}).get("feedback")
    known = feedback if isinstance(feedback, list) and len(feedback) == len(scores) else [[]] * len(scores)
    people = [
        {"score": score, **({"reasoning": item["critique"]} if "critique" in item else {})}
        | dict(zip(FEEDBACK, said, strict=False))
        for score, item, said in zip(scores, group["judgements"], known, strict=True)
    ]
    mean = sum(scores) / len(scores)
    own = {
        "context": as_messages(group["prompt"], "user"),
        "response1": first["text"],
        "response2": second["text"],
        "overall_preference": int(abs(mean) + 0.5) * (1 if mean > 0 else -1),
        "individual_preference": people,
    }
    row = with_meta(own, group)
    if known is feedback:
        row.pop("feedback")
    yield row


def _score(item: Row) -> int:
    if item["choice"] == "tie":
        return 0
    return item.get("strength", PLAIN_STRENGTH) * (1 if item["choice"] == 1 else -1)
