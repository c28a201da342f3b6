"""Annotators as fast as they can be: each a process with one kept-alive connection that answers at once.

The clients speak just enough HTTP to cost little of the machine that they share with what they measure; how
much they did cost is measured and told.
"""

import json
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Post = Callable[..., tuple[int, Any]]
Work = Callable[[Post, "Timed", float], None]


@dataclass
class Timed:
    """What the clients of one or more rounds saw.

    `seconds` of each counted request, `parts` of it by name where there are several, and `ids` of what was
    answered; `wall` and the `processor` time of the clients, both in seconds.
    """

    seconds: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    ids: list[Any] = field(default_factory=list)
    wall: float = 0.0
    processor: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.seconds) / self.wall

    @property
    def load_share(self) -> float:
        """Of all processors' time, what the clients took."""
        return self.processor / (self.wall * (os.cpu_count() or 1))

    def percentile(self, share: float, part: str | None = None) -> float:
        values = sorted(self.parts.get(part, []) if part else self.seconds)
        if not values:
            raise SystemExit("No request was answered in time: give each round more seconds.")
        return values[int(share * (len(values) - 1))]

    def follow(self, later: "Timed") -> None:
        """Add another round."""
        self.join(later)
        self.wall += later.wall

    def join(self, other: "Timed") -> None:
        """Add what another client did meanwhile."""
        self.seconds += other.seconds
        self.ids += other.ids
        self.processor += other.processor
        for name, values in other.parts.items():
            self.parts.setdefault(name, []).extend(values)


class Connection:
    """Requests with JSON bodies over one connection to a server on this machine that tells lengths."""

    def __init__(self, port: int, headers: dict[str, str]) -> None:
        self._port = port
        lines = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json", **headers}
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._socket: socket.socket | None = None

    def __call__(self, path: str, body: Any = None, *, method: str = "POST") -> tuple[int, Any]:
        """Status and parsed reply. A body that is bytes is JSON already."""
        if method == "GET":
            content = b""
        else:
            content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        head = f"{method} {path} HTTP/1.1\r\n{self._headers}Content-Length: {len(content)}\r\n\r\n"
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=120)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(head.encode() + content)
        status, headers, reply = self._read(self._socket)
        if b"connection: close" in headers:
            self.close()
        return status, json.loads(reply) if reply.strip() else None

    def _read(self, stream: socket.socket) -> tuple[int, bytes, bytes]:
        received = b""
        while (end := received.find(b"\r\n\r\n")) < 0:
            received += self._some(stream)
        headers, body = received[:end].lower(), received[end + 4 :]
        status = int(headers[9:12])
        if b"content-length:" not in headers and status != 204:
            raise SystemExit(f"The server gives no length: {headers!r}")
        length = int(headers.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        while len(body) < length:
            body += self._some(stream)
        return status, headers, body

    def _some(self, stream: socket.socket) -> bytes:
        if not (data := stream.recv(1 << 18)):
            raise SystemExit("The server closed the connection.")
        return data

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def ask_all(port: int, headers: list[dict[str, str]], work: Work, seconds: float) -> Timed:
    """Everybody at once, each in a process of its own, until the time is up."""
    context = multiprocessing.get_context("fork")
    results: Any = context.SimpleQueue()
    start = context.Barrier(len(headers) + 1)
    arguments = (work, seconds, start, results)
    children = [context.Process(target=_client, args=(port, own, *arguments)) for own in headers]
    for child in children:
        child.start()
    start.wait()
    began = time.monotonic()
    total = Timed()
    for _ in children:
        part = results.get()
        if isinstance(part, str):
            raise SystemExit(part)
        total.join(part)
    total.wall = time.monotonic() - began
    for child in children:
        child.join()
    return total


def _client(port: int, headers: dict[str, str], work: Work, seconds: float, start: Any, results: Any) -> None:
    timed = Timed()
    connection = Connection(port, headers)
    start.wait()
    before = time.process_time()
    try:
        work(connection, timed, time.monotonic() + seconds)
    except BaseException as error:
        results.put(f"A client stopped: {error!r}")
        raise
    timed.processor = time.process_time() - before
    connection.close()
    results.put(timed)
