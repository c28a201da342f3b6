"""Migrations after the first may not lock what people judge with: see docs/scaling.md, "Upgrades"."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.postgres.operations import (
    AddConstraintNotValid,
    AddIndexConcurrently,
    RemoveIndexConcurrently,
    ValidateConstraint,
)
from django.db import migrations, models
from django.db.migrations.loader import MigrationLoader

OURS = ("annotation", "training")
NEW_TABLES_FIRST = (migrations.CreateModel,)


def locks(migration: Any) -> Iterator[str]:
    """What a migration would hold people up with, in sentences."""
    new = {one.name.lower() for one in migration.operations if isinstance(one, NEW_TABLES_FIRST)}
    for one in migration.operations:
        of = getattr(one, "model_name", getattr(one, "name", "")) or ""
        if of.lower() in new:
            continue
        if isinstance(one, migrations.AddIndex | migrations.RemoveIndex) and not isinstance(
            one, AddIndexConcurrently | RemoveIndexConcurrently
        ):
            yield f"{one.describe()}: concurrently, or nobody can write meanwhile"
        elif isinstance(one, migrations.AddConstraint) and not isinstance(one, AddConstraintNotValid):
            yield f"{one.describe()}: AddConstraintNotValid, then ValidateConstraint in a later migration"
        elif isinstance(one, migrations.AddField) and not one.field.null and not has_default(one.field):
            yield f"{one.describe()}: null=True or db_default, since the old code does not fill it"
        elif isinstance(one, migrations.AddField) and (one.field.unique or one.field.db_index):
            yield f"{one.describe()}: without an index; AddIndexConcurrently afterwards"
        elif isinstance(one, migrations.AlterField | migrations.RenameField | migrations.RenameModel):
            yield f"{one.describe()}: a new column beside the old one, since old code still runs"
        elif isinstance(one, migrations.RunPython) and migration.atomic:
            yield f"{one.describe()}: in a migration with atomic = False, a few thousand rows at a time"
    held = [one for one in migration.operations if isinstance(one, ValidateConstraint)]
    if held and any(isinstance(one, AddConstraintNotValid) for one in migration.operations):
        yield f"{held[0].describe()}: in a migration of its own, or the first lock is held until its end"


def has_default(field: Any) -> bool:
    return bool(field.has_db_default()) or field.many_to_many


def made_of(*operations: Any, atomic: bool = True) -> Any:
    migration = migrations.Migration("0002_planted", "annotation")
    migration.operations, migration.atomic = list(operations), atomic
    return migration


INDEX = models.Index(fields=["created_at"], name="planted")
CHECK = models.CheckConstraint(condition=models.Q(strength__gte=1), name="planted")


def test_ours_do_not() -> None:
    loader = MigrationLoader(None)
    later = [each for key, each in loader.disk_migrations.items() if key[0] in OURS and each.dependencies]
    found = {str(each): list(locks(each)) for each in later if not each.initial}
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (migrations.AddIndex("judgement", INDEX), "concurrently"),
        (migrations.RemoveIndex("judgement", "planted"), "concurrently"),
        (migrations.AddConstraint("judgement", CHECK), "AddConstraintNotValid"),
        (migrations.AddField("judgement", "x", models.IntegerField(default=0)), "db_default"),
        (migrations.AddField("judgement", "x", models.IntegerField(null=True, db_index=True)), "afterwards"),
        (migrations.AlterField("judgement", "x", models.BigIntegerField()), "beside the old one"),
        (migrations.RenameField("judgement", "x", "y"), "beside the old one"),
        (migrations.RunPython(migrations.RunPython.noop), "atomic = False"),
    ],
)
def test_what_locks_is_found(operation: Any, words: str) -> None:
    (found,) = locks(made_of(operation))
    assert words in found


def test_what_does_not_lock_is_left_alone() -> None:
    assert not list(
        locks(
            made_of(
                migrations.CreateModel("Planted", [("id", models.BigAutoField(primary_key=True))]),
                migrations.AddIndex("planted", INDEX),
                migrations.AddField("judgement", "x", models.IntegerField(db_default=0)),
                migrations.AddField("judgement", "y", models.IntegerField(null=True)),
                AddConstraintNotValid("judgement", CHECK),
            )
        )
    )
    concurrently = AddIndexConcurrently("judgement", INDEX)
    assert not list(locks(made_of(concurrently, atomic=False)))
    assert not list(locks(made_of(ValidateConstraint("judgement", "planted"))))
    both = [AddConstraintNotValid("judgement", CHECK), ValidateConstraint("judgement", "planted")]
    (found,) = locks(made_of(*both))
    assert "migration of its own" in found
