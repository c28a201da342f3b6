r"""HH-RLHF: `chosen` and `rejected` as whole transcripts, `\n\nHuman: …\n\nAssistant: …`.

The turns with which both begin are the prompt. Other columns are kept in `meta`.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from annotation.formats.fitting import Holds
from annotation.formats.reading import (
    as_messages,
    make_group,
    need,
    only_row,
    rest_of,
    shared_prompt,
    with_meta,
)
from annotation.formats.schema import RowError, describe

Row = dict[str, Any]
HOLDS = Holds(
    answers=frozenset({"choice"}),
    prompts="chat",
    texts="chat",
    roles=frozenset({"user", "assistant"}),
    candidates=(2, 2),
    pairs=True,
    modalities=("text",),
    meta=True,
)
ROLES: Final = {"Human": "user", "Assistant": "assistant"}
SPEAKERS: Final = {role: speaker for speaker, role in ROLES.items()}
TURN: Final = re.compile(r"\n\n(Human|Assistant):")


def read(rows: list[Row], *, content: str) -> list[Row]:
    """A row as a group whose first candidate was chosen. Raises `RowError`."""
    row = only_row(rows)
    need(row, "chosen", "rejected")
    prompt, answers = shared_prompt([_turns(row[name], name) for name in ("chosen", "rejected")])
    judgement = {"choice": 0}
    meta = rest_of(row, "chosen", "rejected")
    return [
        make_group(
            prompt, answers, content=content, names=["chosen", "rejected"], judgements=[judgement], meta=meta
        )
    ]


def _turns(transcript: Any, field: str) -> list[Row]:
    if not isinstance(transcript, str):
        raise RowError(field, f"is {describe(transcript)}; it must be a transcript")
    before, *parts = TURN.split(transcript if transcript.startswith("\n\n") else "\n\n" + transcript.lstrip())
    if before.strip() or len(parts) < 4:
        raise RowError(field, r"is no transcript of \n\nHuman: and \n\nAssistant: turns")
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": ROLES[speaker], "content": words.removeprefix(" ")} for speaker, words in pairs]


def write(group: Row) -> Iterator[Row]:
    """A row for each choice."""
    prompt = _transcript(as_messages(group["prompt"], "user"))
    answers = [prompt + _transcript(as_messages(item["text"], "assistant")) for item in group["candidates"]]
    for judgement in group["judgements"]:
        choice = judgement["choice"]
        yield with_meta({"chosen": answers[choice], "rejected": answers[1 - choice]}, group)


def _transcript(messages: list[Row]) -> str:
    return "".join(f"\n\n{SPEAKERS[message['role']]}: {message['content']}" for message in messages)
