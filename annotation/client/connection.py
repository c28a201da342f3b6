"""One connection to the API: requests, refusals, lists page by page. The standard library alone."""

import http.client
import itertools
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urlencode, urlsplit

TRIES: Final = 8
PAUSE: Final = 0.5  # seconds before the second try; longer before each further one
ROOT: Final = "/api/v1/"
JSON: Final = "application/json"
HARMLESS: Final = ("GET", "PUT", "PATCH")  # twice is once
BLOCK: Final = 2**20  # bytes of a file that are in memory at once


class ApiError(Exception):
    """The server refused. `errors` maps field paths to messages."""

    def __init__(self, status: int, detail: str, errors: dict[str, str]) -> None:
        super().__init__(f"{status}: {detail}")
        self.status, self.detail, self.errors = status, detail, errors


class Connection:
    """Sends what the client asks for. A request that may be repeated without harm is sent again when it got
    no answer, or a 5xx; any other only if it cannot have arrived."""

    def __init__(self, url: str, token: str, *, timeout: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"{url!r} is not the address of a site; give one like https://example.org.")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._line = kind(parts.hostname, parts.port, timeout=timeout)
        self._base, self._token = parts.path.rstrip("/"), token

    def close(self) -> None:
        self._line.close()

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, again: bool = False
    ) -> Any:
        """The reply's JSON; None for 204. `again`: may be repeated, though it is a POST."""
        content = None if method in ("GET", "DELETE") else json.dumps(body or {}).encode()
        reply = self.send(method, ROOT + path, content, again=again or method in HARMLESS)
        return json.loads(reply) if reply else None

    def rows(self, path: str, filters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Every row of a list, page by page."""
        page = self.call("GET", path + query_of(filters))
        while True:
            yield from page["results"]
            if page["next"] is None:
                return
            address = urlsplit(page["next"])
            page = json.loads(self.send("GET", f"{address.path}?{address.query}", None, again=True))

    def upload(self, path: str, file: Path, fields: Mapping[str, str]) -> Any:
        """The reply to a form with a file."""
        boundary = uuid.uuid4().hex
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        name = file.name.replace('"', "")
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
        parts.append(f"--{boundary}\r\n{head}Content-Type: application/octet-stream\r\n\r\n".encode())
        before, after = b"".join(parts), f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        with file.open("rb") as source:
            length = len(before) + os.fstat(source.fileno()).st_size + len(after)
            body = itertools.chain([before], iter(partial(source.read, BLOCK), b""), [after])
            return json.loads(self.send("POST", ROOT + path, body, kind, length=length))

    def save(self, path: str, file: Path) -> Path:
        """Writes what lies at a path into a file, which is there once it is whole."""
        part = file.with_name(f"{file.name}.part")
        with part.open("wb") as out:
            self.send("GET", path, None, again=True, into=out)
        return part.replace(file)

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None,
        kind: str = JSON,
        *,
        length: int | None = None,
        again: bool = False,
        into: BinaryIO | None = None,
    ) -> bytes:
        """The reply's content, unless it went `into` a file. A body of parts needs its `length` in bytes.

        Raises `ApiError`, and `OSError` or `HTTPException` when the line is down.
        """
        headers = {"Authorization": f"Bearer {self._token}"} | ({"Content-Type": kind} if body else {})
        if length is not None:
            headers["Content-Length"] = str(length)
        for number in range(1, TRIES + 1):
            sent = False
            try:
                if not again:  # a kept line may have gone stale, which would leave open whether this arrived
                    self._line.close()
                if self._line.sock is None:
                    self._line.connect()
                sent = True
                self._line.request(method, self._base + path, body, headers)
                reply = self._line.getresponse()
                content = _write(reply, into) if into and reply.status < 300 else reply.read()
            except (OSError, http.client.HTTPException):
                self._line.close()
                if number == TRIES or (sent and not again):
                    raise
            else:
                if reply.status < 300:
                    return content
                if reply.status < 500 or number == TRIES or not again:
                    raise _refusal(reply.status, content)
            time.sleep(PAUSE * number)
        raise AssertionError("unreachable")


def _write(reply: http.client.HTTPResponse, out: BinaryIO) -> bytes:
    out.seek(0)
    out.truncate()
    shutil.copyfileobj(reply, out, BLOCK)
    if reply.length:  # unlike read(), reading in blocks keeps quiet about an early end
        raise http.client.IncompleteRead(b"", reply.length)
    return b""


def query_of(values: Mapping[str, Any]) -> str:
    """What stands behind an address; None leaves a value out."""
    given = {name: value for name, value in values.items() if value is not None}
    return f"?{urlencode(given)}" if given else ""


def _refusal(status: int, content: bytes) -> ApiError:
    try:
        problem = json.loads(content)
    except ValueError:
        problem = {}
    errors = {item["field"]: item["message"] for item in problem.get("errors", ())}
    return ApiError(status, problem.get("detail", ""), errors)
