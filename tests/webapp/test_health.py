"""The two health addresses, and what each says when a part is missing."""

from pathlib import Path
from unittest.mock import patch

import pytest
from celery import current_app
from django.db import OperationalError, connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from webapp import health

READY = {"status": "ok", "database": "ok", "migrations": "ok", "broker": "ok", "storage": "ok"}


def test_alive_without_anything(client: Client) -> None:
    """No database fixture: a query would raise."""
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert "no-cache" in response["Cache-Control"]
    assert client.post("/healthz").status_code == 405


@pytest.mark.django_db
def test_ready(client: Client, django_assert_num_queries) -> None:  # type: ignore[no-untyped-def]
    with django_assert_num_queries(3):  # select 1, is there a table of migrations, its rows
        response = client.get("/readyz")
    assert (response.status_code, response.json()) == (200, READY)


@pytest.mark.django_db
def test_missing_migration(client: Client) -> None:
    MigrationRecorder(connection).record_unapplied("annotation", "0001_initial")
    response = client.get("/readyz")
    assert response.status_code == 503
    missing = "1 migrations are not applied; run `manage.py migrate`"
    assert response.json() == READY | {"status": "not ready", "migrations": missing}


@pytest.mark.django_db
def test_database_down(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """The answer is public, so it does not say where the database is; the log does."""
    with patch.object(connection, "cursor", side_effect=OperationalError("no server at db.internal")):
        response = client.get("/readyz")
    assert response.status_code == 503
    assert "does not answer" in response.json()["database"]
    assert b"db.internal" not in response.content
    assert "db.internal" in caplog.text


@pytest.mark.django_db
def test_broker_down(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = current_app.connection_for_write
    monkeypatch.setattr(health, "_broker_is_redis", lambda: True)
    monkeypatch.setattr(
        current_app._get_current_object(),
        "connection_for_write",
        lambda **options: connect(url="redis://127.0.0.1:1/0", **options),
    )
    response = client.get("/readyz")
    assert response.status_code == 503
    assert "does not answer" in response.json()["broker"]
    assert response.json()["database"] == "ok"


@pytest.mark.django_db
def test_storage_not_writable(client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("webapp.health.os.access", lambda folder, mode: False)
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["storage"] == "the storage folder is not writable"
