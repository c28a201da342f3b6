"""SQL of the hot path, prepared by Postgres. The ORM takes longer to build these queries than Postgres to run
them; what the rows become are instances of its models all the same.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, cast

from django.db import connection, models

from annotation.postgres.base import DatabaseWrapper

Instance = TypeVar("Instance", bound=models.Model)


def fetch(sql: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The rows that a statement gives. JSON comes as text."""
    cursor = _cursor()
    cursor.execute(sql, values)
    rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def execute(sql: str, values: Mapping[str, Any]) -> None:
    """Run a statement that gives no rows."""
    _cursor().execute(sql, values)


def _cursor() -> Any:
    return cast(DatabaseWrapper, cast(object, connection)).prepared_cursor()


def columns(model: type[models.Model], alias: str, names: Sequence[str] = ()) -> str:
    """For a SELECT list: all columns of a model, or those of the fields with these attribute names."""
    chosen = names or _names(model)
    return ", ".join(f'{alias}."{name}"' for name in chosen)


def instance_of(model: type[Instance], row: Sequence[Any], names: Sequence[str] = ()) -> Instance:
    """An instance from the values of `columns`; fields that were not asked for are deferred."""
    names = tuple(names) or _names(model)
    values = list(row)
    for position in _json_positions(model, names):
        if values[position] is not None:
            values[position] = json.loads(values[position])
    return model.from_db(connection.alias, names, values)


def insert(
    instance: models.Model,
    *,
    beside: str = "",
    values: Mapping[str, Any] | None = None,
    returning: str = "NULL",
) -> tuple[Any, ...]:
    """Insert a new instance with all its fields but the key, which Postgres gives.

    `beside` is a WITH clause of what the same statement changes besides, `values` are its own, under names
    that no field has, and `returning` is what it gives.
    """
    sql, fields = _insert_statement(type(instance), beside, returning)
    own = {name: prepare(getattr(instance, name), connection) for name, prepare in fields}
    ((instance.pk, *returned),) = fetch(sql, {**own, **(values or {})})
    instance._state.adding, instance._state.db = False, connection.alias
    return tuple(returned)


@cache
def _names(model: type[models.Model]) -> tuple[str, ...]:
    """Attribute names of the fields; those of our models are the columns' names."""
    return tuple(field.attname for field in model._meta.concrete_fields)


@cache
def _json_positions(model: type[models.Model], names: tuple[str, ...]) -> tuple[int, ...]:
    kinds = {field.attname: field for field in model._meta.concrete_fields}
    return tuple(position for position, name in enumerate(names) if isinstance(kinds[name], models.JSONField))


@cache
def _insert_statement(
    model: type[models.Model], beside: str, returning: str
) -> tuple[str, list[tuple[str, Callable[[Any, Any], Any]]]]:
    fields = [field for field in model._meta.concrete_fields if not field.primary_key]
    names = ", ".join(f'"{field.column}"' for field in fields)
    values = ", ".join(f"%({field.attname})s" for field in fields)
    table = model._meta.db_table
    sql = f'{beside} INSERT INTO "{table}" ({names}) VALUES ({values}) RETURNING id, {returning}'  # noqa: S608
    return sql, [(field.attname, field.get_db_prep_save) for field in fields]
