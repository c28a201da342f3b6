"""Every error of the API as problem details (RFC 9457) with field paths."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from rest_framework import status, views
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.response import Response

from annotation.errors import (
    Blocked,
    Conflict,
    Invalid,
    NotAllowed,
    NotFound,
    QueueBusy,
    ServiceError,
    TooMany,
)

CONTENT_TYPE = "application/problem+json"
STATUS_OF: dict[type[ServiceError], int] = {
    Invalid: status.HTTP_400_BAD_REQUEST,
    NotAllowed: status.HTTP_403_FORBIDDEN,
    NotFound: status.HTTP_404_NOT_FOUND,
    Conflict: status.HTTP_409_CONFLICT,
    TooMany: status.HTTP_429_TOO_MANY_REQUESTS,
    QueueBusy: status.HTTP_503_SERVICE_UNAVAILABLE,
}


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook. What is not expected is not answered here and becomes a 500."""
    if isinstance(error, ServiceError):
        views.set_rollback()
        return _of_service(error)
    response = views.exception_handler(error, context)
    if response is None:
        return None
    errors = list(_flatten(error.detail)) if isinstance(error, ValidationError) else []
    detail = _summary(errors) if errors else _detail(error, response)
    return problem(response.status_code, detail, errors=errors, headers=dict(response.headers))


def problem(
    code: int,
    detail: str,
    *,
    errors: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
    **extra: Any,
) -> Response:
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(code).phrase,
        "status": code,
        "detail": detail,
    }
    if errors:
        body["errors"] = errors
    return Response(body | extra, status=code, content_type=CONTENT_TYPE, headers=headers)


def _of_service(error: ServiceError) -> Response:
    code = next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)
    errors = [{"field": field, "message": text} for field, text in getattr(error, "errors", {}).items()]
    answer = getattr(error, "answer", None)
    extra = {"answer": answer} if answer is not None else {}
    extra |= {"code": error.code} if isinstance(error, Blocked) else {}
    headers = {"Retry-After": str(error.wait)} if isinstance(error, TooMany) else None
    return problem(code, _summary(errors) if errors else str(error), errors=errors, headers=headers, **extra)


def _summary(errors: list[dict[str, str]]) -> str:
    return " ".join(
        f"{error['field']}: {error['message']}" if error["field"] else error["message"] for error in errors
    )


def _detail(error: Exception, response: Response) -> str:
    if isinstance(error, APIException):
        return str(error.detail)
    return str(response.data.get("detail", "")) if isinstance(response.data, dict) else ""


def _flatten(detail: Any, path: str = "") -> Iterator[dict[str, str]]:
    if isinstance(detail, dict):
        for name, inner in detail.items():
            own = "" if name == "non_field_errors" else str(name)
            yield from _flatten(inner, ".".join(part for part in (path, own) if part))
    elif isinstance(detail, list) and any(isinstance(inner, dict | list) for inner in detail):
        for index, inner in enumerate(detail):
            if inner:
                yield from _flatten(inner, f"{path}.{index}" if path else str(index))
    else:
        messages = detail if isinstance(detail, list) else [detail]
        yield from ({"field": path, "message": str(message)} for message in messages)
