"""What several formats need to read a row: columns by their usual names, numbers, texts, messages."""

import re
from collections.abc import Iterable
from typing import Any, Final

from annotation.formats.schema import RowError, check_group, describe

Row = dict[str, Any]
PROMPTS: Final = ("prompt", "instruction", "question", "query", "caption", "input")
NUMBERED: Final = re.compile(
    r"(?P<stem>text|image|response|completion|candidate|answer|output|generation|option|model|assistant)"
    r"[_ -]?(?P<mark>[a-i]|\d{1,3})",
    re.IGNORECASE,
)
SIDES: Final = (("left", "right"), ("chosen", "rejected"))


def find_prompt(row: Row) -> str:
    """The column in which the prompt stands. Raises `RowError`."""
    for name in PROMPTS:
        if name in row:
            return name
    raise RowError("prompt", f"is missing; looked for {', '.join(PROMPTS)}")


def find_candidates(names: Iterable[str]) -> list[str]:
    """The columns of the candidates in order: `response_a, response_b`, `text1, text2`, `left, right`, …"""
    names = list(names)
    stems: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if found := NUMBERED.fullmatch(name):
            mark = found["mark"].lower()
            place = int(mark) if mark.isdecimal() else ord(mark) - ord("a")
            stems.setdefault(found["stem"].lower(), []).append((place, name))
    stems.pop("model", None) if len(stems) > 1 else None
    if stems:
        longest: list[tuple[int, str]] = max(stems.values(), key=lambda found: len(list(found)))
        return [name for _, name in sorted(longest)]
    return next((list(side) for side in SIDES if set(side) <= set(names)), [])


def only_row(rows: list[Row]) -> Row:
    """The row of a format in which rows stand for themselves."""
    (row,) = rows
    return row


def need(row: Row, *names: str) -> None:
    """Raise `RowError` for the first column that is not there."""
    for name in names:
        if name not in row:
            raise RowError(name, "is missing")


def number_of(value: object, field: str) -> float:
    """A number, or a text that is one."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise RowError(field, f"is {value!r:.40}; it must be a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RowError(field, f"is {describe(value)}; it must be a number")
    return int(value) if float(value).is_integer() else float(value)


def list_of(value: object, field: str, length: int | None = None) -> list[Any]:
    if not isinstance(value, list):
        raise RowError(field, f"is {describe(value)}; it must be a list")
    if length is not None and len(value) != length:
        raise RowError(field, f"has {len(value)} entries for {length}")
    return value


def object_of(value: object, field: str) -> Row:
    if not isinstance(value, dict):
        raise RowError(field, f"is {describe(value)}; it must be an object")
    return value


def rest_of(row: Row, *names: str) -> Row:
    """What is kept in `meta`: every column that has no meaning of its own. Raises `RowError` for bytes."""
    rest = {name: value for name, value in row.items() if name not in names and value is not None}
    for name, value in rest.items():
        if _has_bytes(value):
            raise RowError(name, "holds bytes, and this format knows no picture there; leave the column out")
    return rest


def _has_bytes(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_bytes, value.values()))
    return isinstance(value, bytes) or (isinstance(value, list) and any(map(_has_bytes, value)))


def text_of(value: Any, field: str) -> Any:
    """A text or messages; content in parts (`[{"type": "text", "text": …}]`) becomes its text."""
    if not isinstance(value, list):
        return value
    return [_message(message, f"{field}.{number}") for number, message in enumerate(value)]


def _message(message: Any, field: str) -> Any:
    if not isinstance(message, dict):
        return message
    content = message.get("content")
    if not isinstance(content, list):
        return message
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else describe(part)
            raise RowError(
                f"{field}.content",
                f"has a part of type {kind}; only prompts may hold pictures, and not in every format",
            )
        texts.append(str(part.get("text", "")))
    return message | {"content": "\n".join(texts)}


def shared_prompt(conversations: list[list[Row]]) -> tuple[Any, list[Any]]:
    """The messages with which all conversations begin, and what each has behind; single ones as texts."""
    shared, shortest = 0, min(map(len, conversations))
    while shared < shortest - 1 and all(
        conversation[shared] == conversations[0][shared] for conversation in conversations
    ):
        shared += 1
    if not shared:
        raise RowError("prompt", "is missing: the conversations do not begin with the same message")
    prompt = conversations[0][:shared]
    return single(prompt, "user"), [single(item[shared:], "assistant") for item in conversations]


def single(messages: list[Row], role: str) -> Any:
    """One message of this role as its text."""
    return messages[0]["content"] if len(messages) == 1 and messages[0].get("role") == role else messages


def as_messages(text: Any, role: str) -> list[Row]:
    """A text as one message of this role."""
    return [{"role": role, "content": text}] if isinstance(text, str) else text


def make_group(
    prompt: Any,
    contents: list[Any],
    *,
    content: str,
    names: list[str],
    judgements: list[Row] | None = None,
    sources: list[Any] | None = None,
    meta: Row | None = None,
) -> Row:
    """A checked group; a `RowError` about candidate i names the column `names[i]`."""
    candidates: list[Row] = [{content: item} for item in contents]
    for candidate, source in zip(candidates, sources or [], strict=False):
        if source:
            candidate["source"] = str(source)[:200]
    group = {"prompt": prompt, "candidates": candidates, "judgements": judgements or [], "meta": meta or {}}
    try:
        return check_group(group, content=content)
    except RowError as error:
        raise RowError(own_name(error.field, names), error.reason) from error


def own_name(field: str, names: list[str]) -> str:
    """`candidates.1.text` is `rejected` to the reader of the file."""
    parts = field.split(".")
    if parts[0] == "candidates" and len(parts) > 1 and int(parts[1]) < len(names):
        return names[int(parts[1])]
    return " and ".join(names) if parts[0] == "candidates" else field


def with_meta(own: Row, group: Row) -> Row:
    """A row to write: the format's own columns, and what `meta` knows beside them."""
    return {**{name: value for name, value in group.get("meta", {}).items() if name not in own}, **own}


def ranks_of(ranking: list[list[int]], k: int) -> list[int]:
    """The rank of each candidate from 1, equal ones sharing the better; those without one come last."""
    ranks, place = [0] * k, 1
    for tier in ranking:
        for index in tier:
            ranks[index] = place
        place += len(tier)
    return [rank or place for rank in ranks]


def tiers_of(ranks: list[Any], field: str) -> list[list[int]]:
    """A ranking, best first, from each candidate's rank, of which the smallest is best."""
    numbers = [number_of(rank, f"{field}.{index}") for index, rank in enumerate(ranks)]
    return [[i for i, rank in enumerate(numbers) if rank == place] for place in sorted(set(numbers))]
