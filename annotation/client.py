"""A small client of the HTTP API, of the standard library alone: `Client("https://…", token)`.

Every request may be repeated without harm, so one that got no answer, or a 5xx, is sent again. Refusals are
`ApiError` with the server's sentence and its field paths.
"""

import http.client
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self, TypedDict, cast
from urllib.parse import urlencode, urlsplit

TRIES: Final = 8
PAUSE: Final = 0.5  # seconds before the second try; longer before each further one
POLL: Final = 0.5


class ApiError(Exception):
    """The server refused. `errors` maps field paths to messages."""

    def __init__(self, status: int, detail: str, errors: dict[str, str]) -> None:
        super().__init__(f"{status}: {detail}")
        self.status, self.detail, self.errors = status, detail, errors


class Candidate(TypedDict, total=False):
    position: int
    text: Any
    image: str


class Shown(TypedDict, total=False):
    """A comparison in one's hands; candidates in presented order."""

    lease: str
    expires_at: str
    comparison: int
    prompt: Any
    candidates: list[Candidate]
    questions: list[dict[str, Any]]
    suggestions: list[dict[str, Any]]


class Stored(TypedDict, total=False):
    """The reply to an answer; `next` if it was asked for, None where nothing is left."""

    judgement: int
    lease: str
    comparison: int
    next: Shown | None


class Client:
    """One connection, for one thread. A context manager."""

    def __init__(self, url: str, token: str, *, timeout: float = 60.0) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        assert parts.hostname is not None
        self._connection = kind(parts.hostname, parts.port, timeout=timeout)
        self._base, self._token = parts.path.rstrip("/"), token

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    # Projects and people

    def create_project(self, name: str, modality: str, **values: Any) -> dict[str, Any]:
        return self.call("POST", "projects/", {"name": name, "modality": modality, **values})

    def add_member(self, project: int, username: str, role: str) -> dict[str, Any]:
        return self.call("POST", f"projects/{project}/members/", {"username": username, "role": role})

    # In and out

    def import_file(self, project: int, path: Path, format: str, **options: bool | str) -> dict[str, Any]:
        """Upload a file; the job, as it is queued. `held_out`, `skip_duplicates` and `use` are options."""
        boundary = uuid.uuid4().hex
        fields = {"format": format} | {name: str(value).lower() for name, value in options.items()}
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        name = path.name.replace('"', "")
        head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
        parts.append(f"--{boundary}\r\n{head}Content-Type: application/octet-stream\r\n\r\n".encode())
        body = b"".join([*parts, path.read_bytes(), f"\r\n--{boundary}--\r\n".encode()])
        kind = f"multipart/form-data; boundary={boundary}"
        return json.loads(self._send("POST", f"/api/v1/projects/{project}/imports/", body, kind))

    def export(self, project: int, format: str, **options: Any) -> dict[str, Any]:
        """Ask for a file; `filters` and `container` are options."""
        return self.call("POST", f"projects/{project}/exports/", {"format": format, **options})

    def wait(self, kind: str, job: int, *, seconds: float = 600.0) -> dict[str, Any]:
        """The `imports` or `exports` job when it has ended. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while (found := self.call("GET", f"{kind}/{job}/"))["status"] in ("queued", "running"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"Job {job} has not ended after {seconds:g} seconds.")
            time.sleep(POLL)
        return found

    def download(self, path: str) -> bytes:
        """What lies at a path that the server named: an export's file, a comparison's picture."""
        return self._send("GET", path, None)

    # Judging

    def next(self, project: int) -> Shown | None:
        """The next comparison for this user; None when nothing is left."""
        return cast(Shown | None, self.call("POST", f"projects/{project}/next/"))

    def judge(
        self, lease: str, answer: Mapping[str, Any], *, client_id: str | None = None, want_next: bool = False
    ) -> Stored:
        """Answer what one holds, candidates as presented positions."""
        body = {"client_id": client_id or str(uuid.uuid4()), **answer}
        query = "?next=1" if want_next else ""
        return cast(Stored, self.call("POST", f"leases/{lease}/judgement/{query}", body))

    def skip(self, lease: str, reason: str = "") -> dict[str, Any]:
        return self.call("POST", f"leases/{lease}/skip/", {"reason": reason})

    def undo(self, judgement: int) -> Shown:
        return cast(Shown, self.call("POST", f"judgements/{judgement}/undo/"))

    # Tuning

    def start_run(self, project: int, method: str, base: str, **values: Any) -> dict[str, Any]:
        return self.call("POST", "runs/", {"project": project, "method": method, "base": base, **values})

    def generate(self, project: int, base: str, **values: Any) -> dict[str, Any]:
        """A run that answers prompts; `prompts`, `config`, `reward` and `seed` are options."""
        return self.call("POST", "generations/", {"project": project, "base": base, **values})

    def score(self, project: int, **values: Any) -> dict[str, Any]:
        """A run that scores candidates by a `base` or a `reward` list; `groups` and `config` are options."""
        return self.call("POST", "scorings/", {"project": project, **values})

    def run(self, run: int) -> dict[str, Any]:
        return self.call("GET", f"runs/{run}/")

    def metrics(self, run: int) -> Any:
        return self.call("GET", f"runs/{run}/metrics/")

    def cancel_run(self, run: int) -> dict[str, Any]:
        return self.call("POST", f"runs/{run}/cancel/")

    def checkpoint(self, checkpoint: int) -> bytes:
        """The zip of a checkpoint's result."""
        return self._send("GET", f"/api/v1/checkpoints/{checkpoint}/download/", None)

    # Everything else

    def rows(self, path: str, **filters: Any) -> Iterator[dict[str, Any]]:
        """Every row of a list, page by page: `rows("projects/7/judgements/", by="anna")`."""
        page = self.call("GET", path + (f"?{urlencode(filters)}" if filters else ""))
        while True:
            yield from page["results"]
            if page["next"] is None:
                return
            address = urlsplit(page["next"])
            page = json.loads(self._send("GET", f"{address.path}?{address.query}", None))

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The reply's JSON; None for 204."""
        content = None if method == "GET" else json.dumps(body or {}).encode()
        reply = self._send(method, f"/api/v1/{path}", content)
        return json.loads(reply) if reply else None

    def _send(self, method: str, path: str, body: bytes | None, kind: str = "application/json") -> bytes:
        headers = {"Authorization": f"Bearer {self._token}"} | ({"Content-Type": kind} if body else {})
        for number in range(1, TRIES + 1):
            try:
                self._connection.request(method, self._base + path, body, headers)
                reply = self._connection.getresponse()
                content = reply.read()
            except (OSError, http.client.HTTPException):
                self._connection.close()
                if number == TRIES:
                    raise
            else:
                if reply.status < 300:
                    return content
                if reply.status < 500 or number == TRIES:
                    raise _refusal(reply.status, content)
            time.sleep(PAUSE * number)
        raise AssertionError("unreachable")


def _refusal(status: int, content: bytes) -> ApiError:
    try:
        problem = json.loads(content)
    except ValueError:
        problem = {}
    errors = {item["field"]: item["message"] for item in problem.get("errors", ())}
    return ApiError(status, problem.get("detail", ""), errors)
