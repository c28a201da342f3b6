"""TRL's preference formats, told apart by their columns.

Read: `prompt, chosen, rejected`; `prompt, responses` (unlabelled); `prompt, completion, label`;
`prompt, completion` (unlabelled, to be judged alone); `prompt`; and step by step `prompt, completions,
labels`. Texts, or lists of messages; with `chosen` and `rejected` as whole conversations the prompt may be
left out. Pictures of the prompt, in `images` or `image`, stand where its messages have parts of the type
`image`, or before the first of them. A `margin` of 1, 2 or 3 is the strength; other columns are kept in
`meta`. In projects of pictures an answer is a file's name, its bytes, or an `{"bytes", "path"}` of the
datasets library. Written: the same, a row for each candidate that another was preferred to.
"""

from collections.abc import Iterator
from typing import Any, Final

from annotation.formats.fitting import Holds
from annotation.formats.reading import (
    as_messages,
    list_of,
    make_group,
    need,
    only_row,
    rest_of,
    text_of,
    with_meta,
)
from annotation.formats.schema import RowError, check_prompt, describe
from annotation.prompts import pictures_of, with_pictures
from annotation.template.texts import plain_text, steps_of

Row = dict[str, Any]
HOLDS = Holds(
    answers=frozenset({"choice", "strength", "thumbs", "ranking", "partial", "step"}),
    meta=True,
    prompt_pictures=True,
    candidates=(0, 100),
)
ANSWERS: Final = (("chosen", "rejected"), ("responses",), ("completion", "label"), ("completions", "labels"))
STEPS: Final = ("completions", "labels")
BETWEEN: Final = "\n\n"  # steps
INCORRECT: Final = "incorrect"
PICTURES: Final = ("image", "images")


def read(rows: list[Row], *, content: str) -> list[Row]:
    """A row of any of the formats as a group. Raises `RowError`."""
    row = only_row(rows)
    columns = _columns(row)
    row = _explicit_prompt(row) if columns == ("chosen", "rejected") and "prompt" not in row else row
    need(row, "prompt")
    row = {name: text_of(value, name) if name in columns else value for name, value in row.items()}
    row["prompt"] = _with_its_pictures(row)
    meta = rest_of(row, "prompt", *PICTURES, *columns)
    if not columns:
        return [_prompt_only(row["prompt"], meta)]
    if columns == STEPS:
        return [_steps(row, meta, content=content)]
    answers, names = _answers(row, columns)
    judgements = _judgements(row, columns)
    if judgements and "choice" in judgements[0] and meta.get("margin") in (1, 2, 3):
        judgements[0]["strength"] = int(meta.pop("margin"))
    return [
        make_group(row["prompt"], answers, content=content, names=names, judgements=judgements, meta=meta)
    ]


def _columns(row: Row) -> tuple[str, ...]:
    """Which answer columns this row has. One of a pair without the other is an error, save a completion."""
    if row.keys() & {name for names in ANSWERS for name in names} == {"completion"}:
        return ("completion",)
    present = [columns for columns in ANSWERS if any(name in row for name in columns)]
    if len(present) > 1:
        names = " and ".join(f"`{columns[0]}`" for columns in present)
        raise RowError(present[1][0], f"{names} do not belong into one row")
    need(row, *(present[0] if present else ()))
    return present[0] if present else ()


def _with_its_pictures(row: Row) -> Any:
    """The prompt with the pictures of the row where it has places for them."""
    single = row.get("image")
    pictures = row.get("images") or ([] if single is None else [single])
    prompt = row["prompt"]
    if not pictures:
        return prompt
    list_of(pictures, "images")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not all(isinstance(item, dict) for item in prompt):
        return prompt  # the check of the group says what is wrong
    places = sum(map(_is_place, _parts_of(prompt)))
    if not places:
        return _before_the_first(prompt, [{"type": "image", "image": picture} for picture in pictures])
    if places != len(pictures):
        raise RowError("images", f"are {len(pictures)}; the prompt has places for {places}")
    left = iter(pictures)
    return [
        message | {"content": [part | {"image": next(left)} if _is_place(part) else part for part in parts]}
        if isinstance(parts := message.get("content"), list)
        else message
        for message in prompt
    ]


def _parts_of(prompt: list[Row]) -> list[Any]:
    contents = (message.get("content") for message in prompt)
    return [part for content in contents if isinstance(content, list) for part in content]


def _is_place(part: Any) -> bool:
    """A part of the type `image` that does not say which."""
    return isinstance(part, dict) and part.get("type") == "image" and part.get("image") is None


def _before_the_first(prompt: list[Row], pictures: list[Row]) -> list[Row]:
    """The messages with the pictures at the beginning of what the person says first."""
    first = next((number for number, item in enumerate(prompt) if item.get("role") == "user"), 0)
    content = prompt[first].get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return [*prompt[:first], prompt[first] | {"content": [*pictures, *parts]}, *prompt[first + 1 :]]


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


def _answers(row: Row, columns: tuple[str, ...]) -> tuple[list[Any], list[str]]:
    """The candidates, and the names that their columns have."""
    if columns != ("responses",):
        fields = [name for name in columns if name != "label"]
        return [row[field] for field in fields], fields
    responses = row["responses"]
    if not isinstance(responses, list):
        raise RowError("responses", f"is {describe(responses)}; it must be a list of answers")
    if len(responses) < 2:
        raise RowError("responses", f"has {len(responses)} answers; a comparison needs at least 2")
    return responses, [f"responses.{index}" for index in range(len(responses))]


def _judgements(row: Row, columns: tuple[str, ...]) -> list[Row]:
    if columns == ("chosen", "rejected"):
        return [{"annotator": "import", "order": [0, 1], "choice": 0}]
    if columns == ("completion", "label"):
        if not isinstance(row["label"], bool):
            raise RowError("label", f"is {describe(row['label'])}; it must be true or false")
        return [{"annotator": "import", "order": [0], "thumbs": [int(row["label"])]}]
    return []


def _prompt_only(prompt: Any, meta: Row) -> Row:
    try:
        return {"prompt": check_prompt(prompt), "meta": meta, "candidates": []}
    except ValueError as error:
        raise RowError("prompt", str(error)) from error


def _steps(row: Row, meta: Row, *, content: str) -> Row:
    """One answer in steps, each marked as correct or not; the first that is not is the first error."""
    steps = list_of(row["completions"], "completions")
    labels = list_of(row["labels"], "labels", len(steps))
    for index, (step, label) in enumerate(zip(steps, labels, strict=True)):
        if not isinstance(step, str) or not step.strip():
            raise RowError(f"completions.{index}", "must be a text")
        if not isinstance(label, bool):
            raise RowError(f"labels.{index}", f"is {describe(label)}; it must be true or false")
    marks, start = [], 0
    for index, (step, label) in enumerate(zip(steps, labels, strict=True)):
        mark: Row = {"candidate": 0, "type": "step", "step": index, "start": start, "end": start + len(step)}
        mark |= {} if label else {"category": INCORRECT}
        mark |= {"first_error": True} if not label and all(labels[:index]) else {}
        marks.append(mark)
        start += len(step) + len(BETWEEN)
    text = BETWEEN.join(steps)
    return make_group(
        row["prompt"],
        [text],
        content=content,
        names=["completions"],
        judgements=[{"annotator": "import", "marks": marks}],
        meta=meta,
    )


def write(group: Row) -> Iterator[Row]:
    """A row for each preference, thumb, or answer judged in steps; a prompt without candidates as it is.

    Pictures of the prompt stand in `images`, and what is next to messages is messages too.
    """
    pictures = pictures_of(group["prompt"])
    beside = {"images": pictures} if pictures else {}
    group = group | {"prompt": with_pictures(group["prompt"], lambda _number, _name: {})}
    for row in _rows_of(_of_one_kind(group)):
        yield row | beside


def _of_one_kind(group: Row) -> Row:
    """Prompt and answers all as texts or all as messages: TRL's trainers take no mixture."""
    texts = [item["text"] for item in group["candidates"] if "text" in item]
    if not texts or not any(isinstance(text, list) for text in (group["prompt"], *texts)):
        return group
    answers = [item | {"text": as_messages(item["text"], "assistant")} for item in group["candidates"]]
    return group | {"prompt": as_messages(group["prompt"], "user"), "candidates": answers}


def _rows_of(group: Row) -> Iterator[Row]:
    if not group["candidates"]:
        yield with_meta({"prompt": group["prompt"]}, group)
    contents = [item.get("text", item.get("image")) for item in group["candidates"]]
    for judgement in group["judgements"]:
        for better, worse in _preferences(judgement, len(contents)):
            own = {"prompt": group["prompt"], "chosen": contents[better], "rejected": contents[worse]}
            yield with_meta(
                own | ({"margin": judgement["strength"]} if "strength" in judgement else {}), group
            )
        for content, thumb in zip(contents, judgement.get("thumbs", [None] * len(contents)), strict=True):
            if thumb is not None:
                yield with_meta(
                    {"prompt": group["prompt"], "completion": content, "label": bool(thumb)}, group
                )
        for index, content in enumerate(contents):
            marks = [
                mark for mark in judgement.get("marks", []) if mark["candidate"] == index and _placed(mark)
            ]
            if marks:
                yield with_meta({"prompt": group["prompt"], **_labelled(content, marks)}, group)


def _placed(mark: Row) -> bool:
    return "end" in mark or "step" in mark


def _preferences(judgement: Row, k: int) -> Iterator[tuple[int, int]]:
    """Which candidate was preferred to which: the choice to all others, or every two ranked apart."""
    choice = judgement.get("choice")
    if isinstance(choice, int):
        yield from ((choice, index) for index in range(k) if index != choice)
        return
    tiers = judgement.get("ranking", [])
    for place, tier in enumerate(tiers):
        for worse in tiers[place + 1 :]:
            yield from ((i, j) for i in tier for j in worse)


def _labelled(content: Any, marks: list[Row]) -> Row:
    """The steps that were marked, and whether each is correct: no first error, nor called incorrect."""
    text = plain_text(content)
    spans = steps_of(content)
    steps: dict[tuple[int, int], bool] = {}
    for mark in marks:
        where = (mark["start"], mark["end"]) if "end" in mark else spans[mark["step"]]
        wrong = mark.get("first_error") or mark.get("category") == INCORRECT
        steps[where] = steps.get(where, True) and not wrong
    return {
        "completions": [text[start:end] for start, end in sorted(steps)],
        "labels": [steps[where] for where in sorted(steps)],
    }
