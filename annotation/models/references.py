"""Foreign keys of tables that grow by thousands of rows at once, looked up once for each value and statement.

Postgres looks up its own for every row, which took a third of the database's time of an import. These give
the same guarantee: no row refers to one that is not there. A new reference locks the row it refers to, as a
foreign key does, so that a deletion waits for it and then finds it; deletions are checked at the end of the
transaction. The Django field has `db_constraint=False`.
"""

import pgtrigger

_MISSING = """RAISE foreign_key_violation USING
                MESSAGE = format('no row of {to} has the id %s, which {table}.{column} names', key),
                TABLE = '{table}', COLUMN = '{column}', CONSTRAINT = '{name}';"""
# Nobody else sees, and so nobody takes away, what this transaction has added itself; its own deletions are
# checked at its end.
_ADDED = """
    FOR key IN
        SELECT named FROM (SELECT DISTINCT {column} AS named FROM added WHERE {column} IS NOT NULL) a
        WHERE (SELECT xmin FROM {to} WHERE id = named) IS DISTINCT FROM pg_current_xact_id()::xid
        ORDER BY 1
    LOOP
        PERFORM FROM {to} WHERE id = key FOR KEY SHARE;
        IF NOT FOUND THEN
            {missing}
        END IF;
    END LOOP;
    RETURN NULL;
"""
_CHANGED = """
    key := NEW.{column};
    PERFORM FROM {to} WHERE id = key FOR KEY SHARE;
    IF NOT FOUND THEN
        {missing}
    END IF;
    RETURN NULL;
"""
_REMOVED = """
    IF EXISTS (SELECT FROM {table} WHERE {column} = OLD.id)
        AND NOT EXISTS (SELECT FROM {to} WHERE id = OLD.id) THEN
        RAISE foreign_key_violation USING
            MESSAGE = format('{table}.{column} still names the id %s of {to}', OLD.id),
            TABLE = '{table}', COLUMN = '{column}', CONSTRAINT = '{name}';
    END IF;
    RETURN NULL;
"""
_KEY = [("key", "bigint")]


def refers(column: str, *, table: str, to: str) -> list[pgtrigger.Trigger]:
    """Triggers of `table`: what its `column` (`project_id`) names is a row of the table `to`."""
    name = column.removesuffix("_id")
    values = {"column": column, "table": table, "to": to, "name": f"{name}_exists"}
    values["missing"] = _MISSING.format(**values)
    return [
        pgtrigger.Trigger(
            name=f"{name}_exists",
            level=pgtrigger.Statement,
            when=pgtrigger.After,
            operation=pgtrigger.Insert,
            referencing=pgtrigger.Referencing(new="added"),
            declare=_KEY,
            func=_ADDED.format(**values),
        ),
        pgtrigger.Trigger(
            name=f"{name}_still_exists",
            when=pgtrigger.After,
            operation=pgtrigger.UpdateOf(column),
            condition=pgtrigger.Condition(
                f"NEW.{column} IS DISTINCT FROM OLD.{column} AND NEW.{column} IS NOT NULL"
            ),
            declare=_KEY,
            func=_CHANGED.format(**values),
        ),
    ]


def referred(column: str, *, table: str, to: str) -> pgtrigger.Trigger:
    """The trigger of `to`, the other end: a row that `table` names stays, and keeps its id."""
    name = column.removesuffix("_id")
    return pgtrigger.Trigger(
        name=f"named_as_{name}",
        when=pgtrigger.After,
        operation=pgtrigger.Delete | pgtrigger.UpdateOf("id"),
        timing=pgtrigger.Deferred,
        func=_REMOVED.format(column=column, table=table, to=to, name=f"{name}_exists"),
    )
