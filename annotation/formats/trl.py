"""TRL's preference formats, told apart by their columns.

Read: `prompt, chosen, rejected`; `prompt, responses` (unlabelled); `prompt, completion, label`; `prompt`.
Texts, or lists of messages; with `chosen` and `rejected` as whole conversations the prompt may be left out.
Other columns are kept in `meta`. Written: `prompt, chosen, rejected`; thumbs as `prompt, completion, label`.
"""

from collections.abc import Iterator
from typing import Any

from annotation.formats.schema import RowError, check_group, check_text, describe

Row = dict[str, Any]
ANSWERS = (("chosen", "rejected"), ("responses",), ("completion", "label"))


def read(row: Row, *, content: str) -> Row:
    """A row of any of the formats as a group. Raises `RowError`."""
    columns = _columns(row)
    row = _explicit_prompt(row) if columns == ("chosen", "rejected") and "prompt" not in row else row
    if "prompt" not in row:
        raise RowError("prompt", "is missing")
    group: Row = {
        "prompt": row["prompt"],
        "meta": {k: v for k, v in row.items() if k not in ("prompt", *columns)},
    }
    if not columns:
        return _prompt_only(group)
    fields = ("completion",) if columns == ("completion", "label") else columns
    answers = [row[field] for field in fields] if columns != ("responses",) else _responses(row)
    names = (
        list(fields) if columns != ("responses",) else [f"responses.{index}" for index in range(len(answers))]
    )
    group["candidates"] = [{content: answer} for answer in answers]
    group["judgements"] = _judgements(row, columns)
    try:
        return check_group(group, content=content)
    except RowError as error:
        raise RowError(_own_name(error.field, names), error.reason) from error


def _columns(row: Row) -> tuple[str, ...]:
    """Which answer columns this row has. One of a pair without the other is an error."""
    present = [columns for columns in ANSWERS if any(name in row for name in columns)]
    if len(present) > 1:
        names = " and ".join(f"`{columns[0]}`" for columns in present)
        raise RowError(present[1][0], f"{names} do not belong into one row")
    for name in present[0] if present else ():
        if name not in row:
            raise RowError(name, "is missing")
    return present[0] if present else ()


def _explicit_prompt(row: Row) -> Row:
    """The messages with which both conversations begin are the prompt."""
    chosen, rejected = row["chosen"], row["rejected"]
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        raise RowError("prompt", "is missing")
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if not shared:
        raise RowError(
            "prompt", "is missing, and `chosen` and `rejected` do not begin with the same messages"
        )
    return row | {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _responses(row: Row) -> list[Any]:
    responses = row["responses"]
    if not isinstance(responses, list):
        raise RowError("responses", f"is {describe(responses)}; it must be a list of answers")
    if len(responses) < 2:
        raise RowError("responses", f"has {len(responses)} answers; a comparison needs at least 2")
    return responses


def _judgements(row: Row, columns: tuple[str, ...]) -> list[Row]:
    if columns == ("chosen", "rejected"):
        return [{"annotator": "import", "order": [0, 1], "choice": 0}]
    if columns == ("completion", "label"):
        if not isinstance(row["label"], bool):
            raise RowError("label", f"is {describe(row['label'])}; it must be true or false")
        return [{"annotator": "import", "order": [0], "thumbs": [int(row["label"])]}]
    return []


def _prompt_only(group: Row) -> Row:
    try:
        check_text(group["prompt"])
    except ValueError as error:
        raise RowError("prompt", str(error)) from error
    return group | {"candidates": []}


def _own_name(field: str, names: list[str]) -> str:
    """`candidates.1.text` is `rejected` to the reader of this file."""
    parts = field.split(".")
    if parts[0] == "candidates" and len(parts) > 1:
        return names[int(parts[1])]
    return " and ".join(names) if parts[0] == "candidates" else field


def write(group: Row, left_out: dict[str, int]) -> Iterator[Row]:
    """A row for each regular judgement and each candidate it was preferred to; thumbs as labels.

    Ties and "both bad" have no place in this format and are counted in `left_out`.
    """
    regular = [item for item in group["judgements"] if item.get("kind", "regular") == "regular"]
    contents = [item.get("text", item.get("image")) for item in group["candidates"]]
    if not regular:
        _count(left_out, "without a judgement")
    for judgement in regular:
        choice = judgement.get("choice")
        if isinstance(choice, int) and len(contents) > 1:
            for index, content in enumerate(contents):
                if index != choice:
                    yield {"prompt": group["prompt"], "chosen": contents[choice], "rejected": content}
        elif "thumbs" in judgement:
            for content, thumb in zip(contents, judgement["thumbs"], strict=True):
                yield {"prompt": group["prompt"], "completion": content, "label": bool(thumb)}
        else:
            _count(left_out, {"tie": "ties", "both_bad": "both bad"}.get(str(choice), "without a choice"))


def _count(left_out: dict[str, int], reason: str) -> None:
    left_out[reason] = left_out.get(reason, 0) + 1
