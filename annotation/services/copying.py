"""Many new rows at once, through Postgres' COPY and past the model instances: several times faster than
INSERT.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from django.db import connections, models
from django.utils import timezone

ALIAS = "default"
NULL: Final = r"\N"
ESCAPES: Final = (("\\", r"\\"), ("\t", r"\t"), ("\n", r"\n"), ("\r", r"\r"))


class Encoded(str):
    """A JSON value as it is written."""

    __slots__ = ()


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


def copy_columns(model: type[models.Model], columns: Mapping[str, Sequence[Any]], **same: Any) -> None:
    """Write rows, given as columns of equal length by attribute (`comparison_id`); `same` is in all of them.

    Fields that are left out get their defaults, and ids are given by Postgres unless they are there
    (`next_ids`). Every constraint holds, as for inserted rows.
    """
    fields = {field.attname: field for field in model._meta.concrete_fields}
    now = timezone.now()
    for name in fields.keys() - columns.keys() - same.keys():
        default = _default_of(fields[name], now)
        if default is not None:  # elsewhere the column's own default, which is NULL
            same[name] = default
    texts = [_encoded(values, fields[name]) for name, values in columns.items()]
    tail = "".join(f"\t{text}" for name, value in same.items() for text in _encoded([value], fields[name]))
    lines = f"{tail}\n".join(map("\t".join, zip(*texts, strict=True)))
    if not lines:
        return
    connection = connections[ALIAS]
    quote = connection.ops.quote_name
    names = ", ".join(quote(str(fields[name].column)) for name in (*columns, *same))
    with (
        connection.wrap_database_errors,
        connection.cursor() as cursor,
        cursor.copy(f"COPY {quote(model._meta.db_table)} ({names}) FROM STDIN") as copy,
    ):
        copy.write(f"{lines}{tail}\n")


def _encoded(values: Sequence[Any], field: Any) -> list[str]:
    """A column in COPY's text format."""
    encode = _encoder_of(field)
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
            return _escaped
        case models.DateTimeField():
            return datetime.isoformat
        case models.IntegerField() | models.UUIDField() | models.FloatField():
            return str
    raise TypeError(f"{field} is of a kind that copy_rows does not know; tell _encoder_of how it is written.")


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def _json(value: Any) -> str:
    text = value if type(value) is Encoded else _encode(value)
    return text.replace("\\", r"\\")  # control characters are written as escapes already


def _escaped(text: str) -> str:
    if text.isalnum():
        return text
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
