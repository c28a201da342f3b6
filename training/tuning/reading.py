"""Files of rows: groups, or the public preference formats that become groups. Torch-free.

``load_groups`` reads a JSONL file and checks every row; the first thing wrong is a :class:`BadInput` that
names file, line and field. Line numbers start at 1.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from training.tuning.data import Group, ImagePart, Modality, pictures_of, with_tools
from training.tuning.errors import BadInput

MAX_PIXELS = 50_000_000


def load_groups(path: Path, *, modality: Modality, media: Path | None = None) -> list[Group]:
    """Every row of a JSONL file as a group, in the file's order.

    ``media`` is the folder of the images; when it is given every image is opened, measured before it is
    decoded, and decoded. Raises BadInput for the first row that cannot be used, and for a file without rows.
    """
    groups = []
    for line, row in _read_rows(path):
        group = _group_of(row, path=path, line=line, modality=modality)
        if group.tools and modality == "image":
            raise BadInput("image models call no tools", file=path, line=line, field="tools")
        group = with_tools(group)
        for number, candidate in enumerate(group.candidates):
            field = f"candidates.{number}.{modality}"
            if getattr(candidate, modality) is None:
                raise BadInput(f"this method works on {modality}s", file=path, line=line, field=field)
            if candidate.image is not None and media is not None:
                check_image(media, candidate.image, file=path, line=line, field=field)
        if media is not None and pictures_of(group.prompt):
            group = _with_pictures(group, media, file=path)
        groups.append(group)
    if not groups:
        raise BadInput("the file holds no rows", file=path)
    return groups


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value) of every line that is not blank. Raises BadInput where a line is not JSON."""
    try:
        handle = path.open(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput("the file is missing", file=path) from None
    with handle:
        line = 0
        try:
            for line, text in enumerate(handle, start=1):
                if text.strip():
                    yield line, json.loads(text)
        except json.JSONDecodeError as error:
            raise BadInput(f"not JSON: {error.msg} at column {error.colno}", file=path, line=line) from None
        except UnicodeDecodeError:
            raise BadInput("not UTF-8 text", file=path, line=line + 1) from None


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, row in read_json_lines(path):
        if not isinstance(row, dict):
            raise BadInput("a row must be a JSON object", file=path, line=line)
        yield line, row


# The public formats, by their columns: what each becomes.
_COLUMNS = {
    frozenset({"prompt", "chosen", "rejected"}): (["chosen", "rejected"], {"choice": 0}),
    frozenset({"prompt", "completion", "label"}): (["completion"], "label"),
    frozenset({"prompt", "completion"}): (["completion"], None),
    frozenset({"prompt"}): ([], None),
}


def _group_of(row: dict[str, Any], *, path: Path, line: int, modality: Modality) -> Group:
    if "prompt" not in row:
        raise BadInput('the column "prompt" is missing', file=path, line=line, field="prompt")
    columns = frozenset(row) - {"meta", "tools"}
    if "candidates" not in row:
        row = _from_columns(row, columns, path=path, line=line, modality=modality)
    if modality == "image":
        _refuse_parts(row["prompt"], path=path, line=line)
    if "line" in row:
        raise BadInput(
            'unknown key; put what the trainer should ignore under "meta"', file=path, line=line, field="line"
        )
    try:
        return Group.model_validate({**row, "line": line})
    except ValidationError as error:
        first = _foremost(error.errors())
        field = ".".join(str(part) for part in first["loc"] if _is_key(part)) or None
        raise BadInput(_plain(first), file=path, line=line, field=_public_name(field, columns)) from None


def _foremost(errors: Sequence[Any]) -> Any:
    """The first error; where a list was tried as a text first, what is wrong inside of the list."""
    first = errors[0]["loc"]
    if first[-1:] != ("str",):
        return errors[0]
    alike = [error for error in errors if error["loc"][: len(first) - 1] == first[:-1]]
    return max(alike, key=lambda error: len(error["loc"]))


def _is_key(part: str | int) -> bool:
    """Whether a part of an error's place is a key or an index, not a kind of value that was tried."""
    return isinstance(part, int) or not (part in ("str", "TextPart", "ImagePart") or "[" in part)


def _with_pictures(group: Group, media: Path, *, file: Path) -> Group:
    """The group with the places of its prompt's pictures, all of which can be read."""
    for number, part in enumerate(pictures_of(group.prompt)):
        check_image(media, part.image, file=file, line=group.line, field=f"prompt (picture {number + 1})")
    assert not isinstance(group.prompt, str)
    prompt = [
        message
        if isinstance(message.content, str)
        else message.model_copy(
            update={
                "content": [
                    part.model_copy(update={"path": media / part.image})
                    if isinstance(part, ImagePart)
                    else part
                    for part in message.content
                ]
            }
        )
        for message in group.prompt
    ]
    return group.model_copy(update={"prompt": prompt})


def _refuse_parts(prompt: Any, *, path: Path, line: int) -> None:
    """BadInput for a message in parts: image models read words."""
    for number, message in enumerate(prompt if isinstance(prompt, list) else ()):
        if isinstance(message, dict) and isinstance(message.get("content"), list):
            problem = "is a list of parts; image models draw from words alone, so leave the row out"
            raise BadInput(problem, file=path, line=line, field=f"prompt.{number}.content")


def _from_columns(
    row: dict[str, Any], columns: frozenset[str], *, path: Path, line: int, modality: Modality
) -> dict[str, Any]:
    if columns not in _COLUMNS:
        raise BadInput(_missing(columns), file=path, line=line)
    answers, judged = _COLUMNS[columns]
    group: dict[str, Any] = {"prompt": row["prompt"], "candidates": [{modality: row[key]} for key in answers]}
    if judged == "label":
        if row["label"] not in (True, False, 0, 1):
            raise BadInput("must be true or false", file=path, line=line, field="label")
        group["judgements"] = [{"thumbs": [int(row["label"])]}]
    elif judged:
        group["judgements"] = [judged]
    return group | {key: row[key] for key in ("meta", "tools") if key in row}


def _missing(columns: frozenset[str]) -> str:
    for one, other in (("chosen", "rejected"), ("rejected", "chosen"), ("label", "completion")):
        if one in columns and other not in columns:
            return f'there is a column "{one}" but the column "{other}" is missing'
    unknown = sorted(columns - {"prompt", "chosen", "rejected", "completion", "label"})
    if unknown:
        return f'unknown column "{unknown[0]}"; put what the trainer should ignore under "meta"'
    return f"the columns {', '.join(sorted(columns))} do not go together"


def _plain(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return 'unknown key; put what the trainer should ignore under "meta"'
    return str(error["msg"]).removeprefix("Value error, ")


def _public_name(field: str | None, columns: frozenset[str]) -> str | None:
    """``candidates.0`` of a row that has columns is the column."""
    if field is None or "candidates" in columns:
        return field
    for position, name in enumerate(["chosen", "rejected"] if "chosen" in columns else ["completion"]):
        if field.startswith(f"candidates.{position}"):
            return name
    return field


def check_image(media: Path, name: str, *, file: Path, line: int, field: str) -> None:
    """BadInput unless the image lies inside ``media``, has at most 50 megapixels, and decodes completely."""
    from PIL import Image, UnidentifiedImageError

    path = media / name
    if Path(name).is_absolute() or not path.resolve().is_relative_to(media.resolve()):
        raise BadInput(f'"{name}" leads out of the folder of images', file=file, line=line, field=field)
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BadInput(
                    f'"{name}" has {width} × {height} pixels; at most {MAX_PIXELS // 10**6} million are read',
                    file=file,
                    line=line,
                    field=field,
                )
            image.load()
    except FileNotFoundError:
        raise BadInput(f'the image "{name}" is missing', file=file, line=line, field=field) from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError) as error:
        raise BadInput(
            f'the image "{name}" cannot be read: {error}', file=file, line=line, field=field
        ) from None
