"""Simulated annotators: over HTTP they see what a person would see, and answer by a hidden utility.

Each has an API token, a connection of its own and a reliability. Like a browser on a bad line, one
request in `REPEAT_ONE_IN` is sent twice under the same `client_id`; the server must store it once.
"""

import io
import random
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from PIL import Image

from annotation.client import Candidate, Client, Shown
from webapp.demo.text_world import choose

REPEAT_ONE_IN = 25
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
    done: list[Sent] = []
    with Client(url, annotator.token) as client:
        shown = client.next(project) if budget.take() else None
        while shown is not None:
            wants_more = budget.take()
            client_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
            answer = decide(client, shown, annotator.reliability, utility, rng)
            lease = shown["lease"]
            send = partial(client.judge, lease, answer, client_id=client_id, want_next=wants_more)
            reply = send()
            if rng.randrange(REPEAT_ONE_IN) == 0 and send() != reply:
                raise UnexpectedReply(f"A repeated judgement of lease {lease} got another reply.")
            done.append(Sent(client_id, reply["judgement"], lease, annotator.username))
            shown = reply.get("next")
    return done


def decide(
    client: Client, shown: Shown, reliability: float, utility: Utility, rng: random.Random
) -> dict[str, int | str]:
    """The answer to a pair as presented: `choice`, and `strength` unless it is a tie."""
    contents = [_look(client, candidate) for candidate in shown["candidates"]]
    left, right = (utility(shown["prompt"], content) for content in contents)
    choice = choose(left, right, rng, reliability, TIE_WIDTH)
    if choice == "tie":
        return {"choice": "tie"}
    difference = abs(left - right) if reliability else rng.uniform(0, VERY_CLEAR + CLEAR)
    return {"choice": choice, "strength": 1 + (difference >= CLEAR) + (difference >= VERY_CLEAR)}


def _look(client: Client, candidate: Candidate) -> Content:
    if "text" in candidate:
        return str(candidate["text"])
    with Image.open(io.BytesIO(client.download(candidate["image"]))) as image:
        return image.convert("RGB")
