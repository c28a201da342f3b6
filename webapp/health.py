"""Is the process alive, and can it serve? Two addresses outside the API, for probes, without a token."""

import logging
import os
from collections.abc import Callable
from functools import cache
from http import HTTPStatus

from celery import current_app
from django.core.files.storage import FileSystemStorage, default_storage
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

logger = logging.getLogger(__name__)


class NotReady(Exception):
    """What is missing, in words that may leave the house: no addresses, no credentials."""


@require_safe
@never_cache
def healthz(request: HttpRequest) -> JsonResponse:
    """This process answers. Touches nothing else, so that an outage elsewhere restarts nobody."""
    return JsonResponse({"status": "ok"})


@require_safe
@never_cache
def readyz(request: HttpRequest) -> JsonResponse:
    """All that a request may need is there: 200, or 503 with what is missing."""
    parts = {name: _try(check) for name, check in CHECKS.items()}
    ready = all(part == "ok" for part in parts.values())
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return JsonResponse({"status": "ok" if ready else "not ready", **parts}, status=status)


def _try(check: Callable[[], None]) -> str:
    try:
        check()
    except NotReady as missing:
        return str(missing)
    except Exception:
        logger.warning("A readiness check failed.", exc_info=True)
        return "does not answer; the log of the web process says why"
    return "ok"


def check_database() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def check_migrations() -> None:
    if missing := _migrations() - MigrationRecorder(connection).applied_migrations().keys():
        raise NotReady(f"{len(missing)} migrations are not applied; run `manage.py migrate`")


def check_broker() -> None:
    options = {"socket_connect_timeout": 2, "socket_timeout": 2} if _broker_is_redis() else {}
    with current_app.connection_for_write(connect_timeout=2, transport_options=options) as broker:
        broker.ensure_connection(max_retries=1, interval_start=0, timeout=3)


def check_storage() -> None:
    default_storage.exists("readyz")  # one request; false is an answer
    if isinstance(default_storage, FileSystemStorage):
        os.makedirs(default_storage.location, exist_ok=True)
        if not os.access(default_storage.location, os.W_OK | os.X_OK):
            raise NotReady("the storage folder is not writable")


CHECKS: dict[str, Callable[[], None]] = {
    "database": check_database,
    "migrations": check_migrations,
    "broker": check_broker,
    "storage": check_storage,
}


@cache
def _migrations() -> frozenset[tuple[str, str]]:
    """Those that ship with this code."""
    return frozenset(MigrationLoader(None).disk_migrations)


def _broker_is_redis() -> bool:
    return str(current_app.conf.broker_url).startswith(("redis://", "rediss://"))
