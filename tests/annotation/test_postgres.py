"""The database connection: statements that are prepared, and a health check without a question."""

import time

import pytest
from django.db import connection

from annotation.models import User
from annotation.services.statements import columns, fetch, instance_of

PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%% AS prepared_once'"


@pytest.fixture
def other(db):
    """A second connection to the test database."""
    made = connection.copy()
    yield made
    made.close()


def test_repeated_statements_are_prepared_once(db):
    for number in range(10):
        assert fetch("SELECT %(number)s::bigint AS prepared_once", {"number": number}) == [(number,)]
    with connection.cursor() as cursor:
        cursor.execute(PREPARED, [])
        assert cursor.fetchone() == (1,)


def test_rows_become_instances(manager):
    manager.keys = {"skip": "x"}
    manager.save()
    sql = f"SELECT {columns(User, 'u')} FROM annotation_user u WHERE u.id = %(id)s"
    found = instance_of(User, fetch(sql, {"id": manager.pk})[0])
    assert found == manager
    for field in User._meta.concrete_fields:
        assert getattr(found, field.attname) == getattr(manager, field.attname), field.attname
    part = instance_of(User, [manager.pk, "m"], ["id", "username"])
    assert part.get_deferred_fields() == {field.attname for field in User._meta.concrete_fields} - {
        "id",
        "username",
    }


def test_a_live_connection_is_not_asked(other):
    other.ensure_connection()
    asked = []
    other.connection.cursor = lambda *args, **kwargs: asked.append("asked")
    assert other.is_usable()
    assert not asked


def test_a_connection_that_the_server_closed_is_not_usable(other):
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    deadline = time.monotonic() + 10
    while other.is_usable() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not other.is_usable()


def test_after_an_error_the_server_is_asked(other, monkeypatch):
    other.ensure_connection()
    monkeypatch.setattr(other, "_is_silent", lambda: pytest.fail("an error is not answered by silence"))
    other.errors_occurred = True
    assert other.is_usable()
