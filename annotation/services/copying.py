"""Many new rows at once, through Postgres' COPY and past the model instances: several times faster than
INSERT.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from django.db import connections, models
from django.utils import timezone

ALIAS = "default"
NULL: Final = r"\N"
PIECE: Final = 64 * 1024  # characters; a socket holds some 200 KiB, which Postgres works on for milliseconds
ESCAPES: Final = (("\\", r"\\"), ("\t", r"\t"), ("\n", r"\n"), ("\r", r"\r"))


class Written(NamedTuple):
    """Some columns by attribute, and what COPY reads for all of them in each row (`written_json`, …)."""

    names: Sequence[str]
    rows: Sequence[str]


def nothing() -> None:
    """What there is to do meanwhile, for most."""


def next_ids(model: type[models.Model], number: int) -> list[int]:
    """Ids for new rows, in ascending order."""
    with connections[ALIAS].cursor() as cursor:
        cursor.execute(
            "SELECT array_agg(nextval(%s::regclass)) FROM generate_series(1, %s)",
            [f'"{model._meta.db_table}_id_seq"', number],
        )
        return cursor.fetchone()[0] or []


def copy_rows(model: type[models.Model], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that all have the same keys; see `copy_columns`."""
    if rows:
        copy_columns(model, {name: [row[name] for row in rows] for name in rows[0]})


def copy_columns(
    model: type[models.Model],
    columns: Mapping[str, Sequence[Any]],
    written: Written | None = None,
    meanwhile: Callable[[], object] = nothing,
    **same: Any,
) -> None:
    """Write rows, given as columns of equal length by attribute (`comparison_id`), some perhaps as they are
    written; `same` is in all of them. While Postgres takes them in, `meanwhile` is called time and again.

    Fields that are left out get their defaults, and ids are given by Postgres unless they are there
    (`next_ids`). Every constraint holds, as for inserted rows.
    """
    columns, same = _without_equal(columns, same)
    fields = {field.attname: field for field in model._meta.concrete_fields}
    now = timezone.now()
    ready = written or Written((), ())
    for name in fields.keys() - {*columns, *ready.names, *same}:
        default = _default_of(fields[name], now)
        if default is not None:  # elsewhere the column's own default, which is NULL
            same[name] = default
    texts: list[Sequence[str]] = [_encoded(values, fields[name]) for name, values in columns.items()]
    texts += [ready.rows] if written else []
    tail = "".join(f"\t{text}" for name, value in same.items() for text in _encoded([value], fields[name]))
    lines = f"{tail}\n".join(map("\t".join, zip(*texts, strict=True)))
    if not lines:
        return
    connection = connections[ALIAS]
    quote = connection.ops.quote_name
    names = ", ".join(quote(str(fields[name].column)) for name in (*columns, *ready.names, *same))
    with (
        connection.wrap_database_errors,
        connection.cursor() as cursor,
        cursor.copy(f"COPY {quote(model._meta.db_table)} ({names}) FROM STDIN") as copy,
    ):
        text = f"{lines}{tail}\n"
        for start in range(0, len(text), PIECE):
            copy.write(text[start : start + PIECE])
            meanwhile()


def _without_equal(
    columns: Mapping[str, Sequence[Any]], same: dict[str, Any]
) -> tuple[dict[str, Sequence[Any]], dict[str, Any]]:
    """Columns that hold one and the same object all along, which most of them do, are written once."""
    first, *names = columns  # a column is left, for the number of rows
    equal = [name for name in names if _is_constant(columns[name])]
    left = {name: values for name, values in columns.items() if name == first or name not in equal}
    return left, {name: columns[name][0] for name in equal} | same


def _is_constant(values: Sequence[Any]) -> bool:
    return len(values) > 0 and values[0] is values[-1] and len(set(map(id, values))) == 1


def _encoded(values: Sequence[Any], field: Any) -> list[str]:
    """A column in COPY's text format."""
    encode = _encoder_of(field)
    if encode is written_text and None not in values and not _needs_escapes("".join(values)):
        return list(values)
    return [NULL if value is None else encode(value) for value in values]


def _encoder_of(field: Any) -> Callable[[Any], str]:
    """How COPY's text format writes a field's values. Raises `TypeError` for kinds that nobody needed yet."""
    match field:
        case models.ForeignKey():
            return _encoder_of(field.target_field)
        case models.JSONField():
            return _json
        case models.BooleanField():
            return "ft".__getitem__
        case models.CharField() | models.TextField():
            return written_text
        case models.DateTimeField():
            return datetime.isoformat
        case models.IntegerField() | models.UUIDField() | models.FloatField():
            return str
    raise TypeError(f"{field} is of a kind that copy_rows does not know; tell _encoder_of how it is written.")


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def _json(value: Any) -> str:
    return written_json(_encode(value))


def written_json(text: str) -> str:
    """JSON text as COPY reads it; control characters are escapes in it already."""
    return text.replace("\\", r"\\")


def _needs_escapes(text: str) -> bool:
    return any(character in text for character, _escape in ESCAPES)


def written_text(text: str) -> str:
    """A text as COPY reads it."""
    for character, escape in ESCAPES:
        text = text.replace(character, escape)
    return text


def _default_of(field: Any, now: datetime) -> Any:
    """What a field is in rows that leave it out."""
    if getattr(field, "auto_now_add", False) or getattr(field, "auto_now", False):
        return now
    return field.get_default()


def refresh_statistics() -> None:
    """Have Postgres look at what was loaded, about a second's work: plans made without would be quadratic."""
    with connections[ALIAS].cursor() as cursor:
        cursor.execute("ANALYZE annotation_comparison, annotation_candidate, annotation_judgement")
