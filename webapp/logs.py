"""Logs as JSON, a line for each record, with the ids of request, task and run: `LOG_FORMAT=json`."""

import logging
import re
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

from celery import Task
from celery.signals import task_postrun, task_prerun
from django.http import HttpRequest, HttpResponse
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from annotation.log_context import current_ids, working_on

access = logging.getLogger("webapp.access")
GIVEN: Final = re.compile(r"[\w.:-]{1,64}")  # a request's id from the proxy in front of us
_tasks: dict[str, ExitStack] = {}  # by their ids


class Ids(logging.Filter):
    """Puts the ids of what is worked on onto every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in current_ids().items():
            setattr(record, name, value)
        return True


class Json(JsonFormatter):
    """Time (UTC), level, logger, message, ids, and what else the record brings but Django's request."""

    converter = staticmethod(time.gmtime)
    default_msec_format = "%s.%03dZ"
    default_time_format = "%Y-%m-%dT%H:%M:%S"

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            reserved_attrs=[*RESERVED_ATTRS, "request", "server_time"],
        )


class RequestIdMiddleware:
    """Every request has an id: the proxy's `X-Request-ID`, or a new one. The answer names it too."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given, began = request.headers.get("X-Request-ID", ""), time.monotonic()
        request_id = given if GIVEN.fullmatch(given) else uuid.uuid4().hex
        with working_on(request_id=request_id):
            response = self.get_response(request)
            response["X-Request-ID"] = request_id
            if access.isEnabledFor(logging.INFO):
                facts = _facts(request, response, began)
                access.info("%s %s", request.method, response.status_code, extra=facts)
        return response


def _facts(request: HttpRequest, response: HttpResponse, began: float) -> dict[str, Any]:
    """The route in place of the address, which may hold a secret; who asked only if something looked."""
    match, user = request.resolver_match, request.__dict__.get("_cached_user")
    return {
        "method": request.method,
        "route": match.route if match is not None else None,
        "status": response.status_code,
        "milliseconds": round(1000 * (time.monotonic() - began), 1),
        "user_id": getattr(user, "pk", None),
    }


@task_prerun.connect
def begin_task(task_id: str, task: Task, **_others: object) -> None:
    """What a task logs carries its name and id."""
    _tasks[task_id] = ExitStack()
    _tasks[task_id].enter_context(working_on(task=task.name, task_id=task_id))


@task_postrun.connect
def end_task(task_id: str, **_others: object) -> None:
    if (begun := _tasks.pop(task_id, None)) is not None:
        begun.close()
