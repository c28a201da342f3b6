"""Simulated annotators: over HTTP they see what a person would see, and answer by a hidden utility.

Each has an API token, a connection of its own and a reliability. Like a browser on a bad line, one
request in `REPEAT_ONE_IN` is sent twice under the same `client_id`; the server must store it once.
"""

import http.client
import io
import json
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from webapp.demo.text_world import choose

REPEAT_ONE_IN = 25
TRIES = 8
PAUSE = 0.5  # seconds before a request that got no answer is sent again
TIE_WIDTH = 0.3
CLEAR, VERY_CLEAR = 1.0, 2.5  # differences of utility from which a preference has strength 2, 3

Content = str | Image.Image
Utility = Callable[[str, Content], float]


class UnexpectedReply(RuntimeError):
    """The site answered what it never should."""


@dataclass(frozen=True)
class Annotator:
    """Who answers, and how well: `reliability` multiplies differences of utility; 0 does not look."""

    username: str
    token: str
    reliability: float


@dataclass(frozen=True)
class Sent:
    """A judgement that the server said it stored."""

    client_id: str
    judgement: int
    lease: str
    username: str


class Budget:
    """How many judgements are still wanted from all annotators together."""

    def __init__(self, wanted: int) -> None:
        self._left = wanted
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take one; False when there are none left."""
        with self._lock:
            self._left -= 1
            return self._left >= 0


class Client:
    """One annotator's connection to the site."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The reply's JSON; None for 204. Any other status than success raises UnexpectedReply."""
        content = self._request("POST", f"/api/v1/{path}", json.dumps(body or {}).encode())
        return json.loads(content) if content else None

    def get(self, path: str) -> bytes:
        """What lies at an absolute path."""
        return self._request("GET", path, None)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _request(self, method: str, path: str, body: bytes | None) -> bytes:
        """Send until the site answers: all requests here may be repeated without harm."""
        for number in range(1, TRIES + 1):
            try:
                self._connection.request(method, path, body, self._headers)
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
                    raise UnexpectedReply(f"{method} {path} got {reply.status}: {content[:500]!r}")
            time.sleep(PAUSE * number)
        raise AssertionError("unreachable")


def label(
    url: str, *, project: int, annotators: Sequence[Annotator], wanted: int, utility: Utility, seed: int
) -> list[Sent]:
    """Let all annotators work side by side until `wanted` judgements are sent or nothing is left for them."""
    budget = Budget(wanted)
    with ThreadPoolExecutor(len(annotators), thread_name_prefix="annotator") as pool:
        futures = [
            pool.submit(
                _work, url, project, annotator, budget, utility, random.Random(f"{seed} {project} {number}")
            )
            for number, annotator in enumerate(annotators)
        ]
        return [sent for future in futures for sent in future.result()]


def _work(
    url: str, project: int, annotator: Annotator, budget: Budget, utility: Utility, rng: random.Random
) -> list[Sent]:
    """One annotator's shift. Nothing stays in hand: the last answer does not ask for another comparison."""
    client = Client(url, annotator.token)
    done: list[Sent] = []
    lease = client.post(f"projects/{project}/next/") if budget.take() else None
    while lease is not None:
        wants_more = budget.take()
        answer = {"client_id": str(uuid.UUID(int=rng.getrandbits(128), version=4))}
        answer |= decide(client, lease, annotator.reliability, utility, rng)
        path = f"leases/{lease['lease']}/judgement/" + ("?next=1" if wants_more else "")
        reply = client.post(path, answer)
        if rng.randrange(REPEAT_ONE_IN) == 0 and client.post(path, answer) != reply:
            raise UnexpectedReply(f"A repeated judgement of lease {lease['lease']} got another reply.")
        assert reply is not None
        done.append(Sent(answer["client_id"], reply["judgement"], lease["lease"], annotator.username))
        lease = reply.get("next")
    client.close()
    return done


def decide(
    client: Client, lease: dict[str, Any], reliability: float, utility: Utility, rng: random.Random
) -> dict[str, Any]:
    """The answer to a pair as presented: `choice`, and `strength` unless it is a tie."""
    contents = [_look(client, candidate) for candidate in lease["candidates"]]
    left, right = (utility(lease["prompt"], content) for content in contents)
    choice = choose(left, right, rng, reliability, TIE_WIDTH)
    if choice == "tie":
        return {"choice": "tie"}
    difference = abs(left - right) if reliability else rng.uniform(0, VERY_CLEAR + CLEAR)
    return {"choice": choice, "strength": 1 + (difference >= CLEAR) + (difference >= VERY_CLEAR)}


def _look(client: Client, candidate: dict[str, Any]) -> Content:
    if "text" in candidate:
        return str(candidate["text"])
    with Image.open(io.BytesIO(client.get(candidate["image"]))) as image:
        return image.convert("RGB")
