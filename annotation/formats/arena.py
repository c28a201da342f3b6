"""LMArena battles.

Read: `model_a, model_b, winner, conversation_a, conversation_b` with `judge`, `tstamp`, …; and the rows of
its 55k release, `prompt, response_a, response_b, winner_model_a, winner_model_b, winner_tie`, whose texts
are JSON lists of turns. The messages with which both conversations begin are the prompt. Written: battles,
a row for each judgement; model a is what stood on the left.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from annotation.formats.fitting import Holds
from annotation.formats.reading import (
    as_messages,
    list_of,
    make_group,
    need,
    number_of,
    only_row,
    rest_of,
    shared_prompt,
    text_of,
    with_meta,
)
from annotation.formats.schema import RowError

Row = dict[str, Any]
HOLDS = Holds(
    answers=frozenset({"choice", "tie", "both_bad"}),
    facts=frozenset({"annotator", "order", "at"}),
    prompts="chat",
    texts="chat",
    candidates=(2, 2),
    pairs=True,
    modalities=("text",),
    sources=True,
    meta=True,
)
BOTH_BAD: Final = "tie (bothbad)"
CHOICES: Final = {
    "model_a": 0, "model_b": 1, "tie": "tie",
    BOTH_BAD: "both_bad", "both_bad": "both_bad", "bothbad": "both_bad",
}  # fmt: skip
CONVERSATIONS: Final = ("conversation_a", "conversation_b")
WINNERS: Final = ("winner_model_a", "winner_model_b", "winner_tie")


def read(rows: list[Row], *, content: str) -> list[Row]:
    """A battle as a group. Raises `RowError`."""
    row = only_row(rows)
    if "conversation_a" not in row:
        return [_read_55k(row, content=content)]
    need(row, "winner", *CONVERSATIONS)
    conversations = [_messages(row[name], name) for name in CONVERSATIONS]
    prompt, answers = shared_prompt(conversations)
    if not isinstance(row["winner"], str) or row["winner"] not in CHOICES:
        raise RowError("winner", f"must be one of {', '.join(CHOICES)}")
    judgement: Row = {"annotator": str(row.get("judge") or "import")[:140], "order": [0, 1]}
    judgement["choice"] = CHOICES[row["winner"]]
    if row.get("tstamp") is not None:
        judgement["at"] = _moment(row["tstamp"])
    meta = rest_of(row, *CONVERSATIONS, "model_a", "model_b", "winner", "judge", "tstamp")
    return [
        make_group(
            prompt,
            answers,
            content=content,
            names=list(CONVERSATIONS),
            judgements=[judgement],
            sources=[row.get("model_a"), row.get("model_b")],
            meta=meta,
        )
    ]


def _messages(value: Any, field: str) -> list[Row]:
    """Role and content of each message; what else the release notes about one is dropped with its turn."""
    messages = text_of(list_of(value, field), field)
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise RowError(f"{field}.{number}", "must have `role` and `content`")
    if not messages:
        raise RowError(field, "is an empty list")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _moment(value: Any) -> str:
    if isinstance(value, str) and not value.replace(".", "", 1).isdecimal():
        return value
    try:
        return datetime.fromtimestamp(number_of(value, "tstamp"), UTC).isoformat()
    except (OverflowError, ValueError, OSError) as error:
        raise RowError("tstamp", f"is no time: {error}") from error


def _read_55k(row: Row, *, content: str) -> Row:
    need(row, "prompt", "response_a", "response_b")
    if "winner" in row:
        choice = CHOICES.get(row["winner"])
    else:
        need(row, *WINNERS)
        won = [number_of(row[name], name) for name in WINNERS]
        choice = [0, 1, "tie"][won.index(1)] if sorted(won) == [0, 0, 1] else None
    if choice is None:
        raise RowError("winner", "must name exactly one winner, or the tie")
    prompts, *answers = (_turns(row[name], name) for name in ("prompt", "response_a", "response_b"))
    conversations = []
    for name, turns in zip(("response_a", "response_b"), answers, strict=True):
        if len(turns) != len(prompts):
            raise RowError(name, f"has {len(turns)} turns for the prompt's {len(prompts)}")
        pairs = zip(prompts, turns, strict=True)
        roles = ("user", "assistant")
        conversations.append(
            [{"role": r, "content": t} for pair in pairs for r, t in zip(roles, pair, strict=True)]
        )
    prompt, candidates = shared_prompt(conversations)
    return make_group(
        prompt,
        candidates,
        content=content,
        names=["response_a", "response_b"],
        judgements=[{"order": [0, 1], "choice": choice}],
        sources=[row.get("model_a"), row.get("model_b")],
        meta=rest_of(row, "prompt", "response_a", "response_b", "model_a", "model_b", "winner", *WINNERS),
    )


def _turns(value: Any, field: str) -> list[str]:
    """A list of texts, perhaps as JSON; a text that is no such list is the only turn."""
    if isinstance(value, str):
        try:
            decoded = json.loads(value)
        except (ValueError, RecursionError):
            decoded = None
        value = decoded if isinstance(decoded, list) else [value]
    turns = list_of(value, field)
    if not turns:
        raise RowError(field, "is an empty list")
    return ["" if turn is None else turn if isinstance(turn, str) else str(turn) for turn in turns]


def write(group: Row) -> Iterator[Row]:
    """A battle for each judgement."""
    prompt = as_messages(group["prompt"], "user")
    for judgement in group["judgements"]:
        sides = judgement.get("order") or [0, 1]
        a, b = (group["candidates"][index] for index in sides)
        choice = judgement["choice"]
        winner = ("model_a", "model_b")[sides.index(choice)] if isinstance(choice, int) else choice
        own = {
            "model_a": a.get("source", ""),
            "model_b": b.get("source", ""),
            "winner": BOTH_BAD if winner == "both_bad" else winner,
            "judge": judgement.get("annotator", "import"),
            "conversation_a": [*prompt, *as_messages(a["text"], "assistant")],
            "conversation_b": [*prompt, *as_messages(b["text"], "assistant")],
        }
        if "at" in judgement:
            own["tstamp"] = datetime.fromisoformat(judgement["at"]).timestamp()
        yield with_meta(own, group)
