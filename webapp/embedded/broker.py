"""The embedded message broker: a folder, through kombu's virtual transport.

`tiebreak+filesystem:///absolute/folder` names it. Every change is one rename, so that a message is seen
whole or not at all, and by one consumer only: a message is written under `new/` and renamed into its
queue's folder; a consumer renames it into `taken/`, reads it and deletes it. kombu's own filesystem
transport locks files in place instead: it lost one message in two hundred under concurrency, and a
half-written one ended a worker.

    queues/<queue>/<time in ns>-<uuid>.msg      what waits, oldest first
    bindings/<exchange>/<digest>.json           [routing key, pattern, queue]
    new/  taken/                                on the way in, on the way out
    damaged/                                    no messages, though named like one; kept for a look
"""

import base64
import json
import logging
import os
import re
import shutil
import time
import uuid
from collections import deque
from hashlib import sha256
from pathlib import Path
from queue import Empty
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from kombu.exceptions import ChannelError
from kombu.transport import TRANSPORT_ALIASES, virtual

logger = logging.getLogger(__name__)

SCHEME = "tiebreak+filesystem"
MESSAGE_NAME = re.compile(r"\d{20}-[0-9a-f]{32}\.msg")


def broker_url(folder: Path) -> str:
    return f"{SCHEME}://{quote(str(folder))}"


def broker_folder(url: str) -> Path:
    """The folder of a broker URL. Raises ValueError unless the URL names one by its absolute path."""
    parts = urlsplit(url)
    if not parts.scheme.endswith("filesystem") or parts.netloc or not parts.path.startswith("/"):
        raise ValueError(f"The broker URL {url!r} is not {SCHEME}:///absolute/folder.")
    return Path(unquote(parts.path))


def clear_messages(folder: Path) -> int:
    """Delete all messages, those of interrupted writers and readers included. Returns how many waited."""
    waiting = 0
    for file in (
        file for pattern in ("queues/*/*", "new/*", "taken/*", "damaged/*") for file in folder.glob(pattern)
    ):
        waiting += file.parent.parent.name == "queues"
        file.unlink(missing_ok=True)
    return waiting


def read_message(raw: bytes) -> dict[str, Any]:
    """The payload of a message file. Raises ValueError unless kombu can deliver it."""
    payload = json.loads(raw)
    if not isinstance(payload, dict) or not isinstance(payload.get("body"), str):
        raise ValueError("there is no body")
    properties = payload.get("properties")
    if not isinstance(properties, dict) or not isinstance(properties.get("delivery_tag"), str):
        raise ValueError("there is no delivery tag")
    delivery = properties.get("delivery_info")
    if not isinstance(delivery, dict) or not {"exchange", "routing_key"} <= delivery.keys():
        raise ValueError("there is no delivery information")
    if properties.get("body_encoding") != "base64":
        raise ValueError("the body is not in base64")
    base64.b64decode(payload["body"], validate=True)
    return payload


class Channel(virtual.Channel):
    """Queues and bindings in the folder."""

    supports_fanout = True  # which also makes kombu keep bindings here instead of in this process

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self.folder = broker_folder(connection.client.hostname)
        for name in ("queues", "bindings", "new", "taken", "damaged"):
            (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._listed: dict[str, deque[str]] = {}  # names seen in the last listing and not yet tried
        super().__init__(connection, **kwargs)

    # Messages

    def _put(self, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex}.msg"
        self._publish(json.dumps(payload).encode(), self._queue_folder(queue) / name)

    def _get(self, queue: str) -> dict[str, Any]:
        """The oldest message, or Empty. What others took meanwhile and what is no message is passed over."""
        names = self._listed.get(queue)
        if not names:
            names = self._listed[queue] = deque(sorted(self._message_names(queue)))
        while names:
            name = names.popleft()
            taken = self.folder / "taken" / name
            try:
                os.rename(self._queue_folder(queue) / name, taken)
            except FileNotFoundError:
                continue
            try:
                payload = read_message(taken.read_bytes())
            except ValueError as error:
                os.rename(taken, self.folder / "damaged" / name)
                logger.error("%s in queue %s is no message (%s); moved to damaged/.", name, queue, error)
                continue
            taken.unlink()
            return payload
        raise Empty

    def _put_fanout(self, exchange: str, payload: dict[str, Any], routing_key: str, **kwargs: Any) -> None:
        for _, _, queue in self.get_table(exchange):
            self._put(queue, payload)

    def _size(self, queue: str) -> int:
        return len(self._message_names(queue))

    def _purge(self, queue: str) -> int:
        purged = 0
        for name in self._message_names(queue):
            try:
                (self._queue_folder(queue) / name).unlink()
            except FileNotFoundError:  # a consumer was faster
                continue
            purged += 1
        return purged

    def _message_names(self, queue: str) -> list[str]:
        try:
            return [name for name in os.listdir(self._queue_folder(queue)) if MESSAGE_NAME.fullmatch(name)]
        except FileNotFoundError:
            return []

    # Queues and bindings

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        self._queue_folder(queue).mkdir(mode=0o700, exist_ok=True)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self._queue_folder(queue).is_dir()

    def _delete(
        self, queue: str, exchange: str, routing_key: str, pattern: str, *args: Any, **kwargs: Any
    ) -> None:
        self._binding_file(exchange, routing_key, pattern, queue).unlink(missing_ok=True)
        shutil.rmtree(self._queue_folder(queue), ignore_errors=True)

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        file = self._binding_file(exchange, routing_key, pattern, queue)
        if not file.exists():
            self._publish(json.dumps([routing_key or "", pattern or "", queue]).encode(), file)

    def get_table(self, exchange: str) -> list[tuple[str, str, str]]:
        files = sorted(self._exchange_folder(exchange).glob("*.json"))
        return [tuple(json.loads(file.read_bytes())) for file in files]

    # Files

    def _queue_folder(self, queue: str) -> Path:
        return self.folder / "queues" / quote(f"{queue}.queue", safe="@")

    def _exchange_folder(self, exchange: str) -> Path:
        return self.folder / "bindings" / quote(f"{exchange}.exchange", safe="@")

    def _binding_file(self, exchange: str, routing_key: str, pattern: str, queue: str) -> Path:
        digest = sha256(json.dumps([routing_key or "", pattern or "", queue]).encode()).hexdigest()
        return self._exchange_folder(exchange) / f"{digest}.json"

    def _publish(self, content: bytes, file: Path) -> None:
        """Make `file` appear whole. Raises ChannelError if the disk refuses."""
        new = self.folder / "new" / uuid.uuid4().hex
        try:
            for folder in (new.parent, file.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            new.write_bytes(content)
            os.rename(new, file)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise ChannelError(f"Cannot write {file}: {error.strerror}.") from error


class Transport(virtual.Transport):
    """Polls twenty times a second, so that a task is picked up after 0.025 s on average."""

    Channel = Channel
    implements = virtual.Transport.implements.extend(exchange_type=frozenset(["direct", "topic", "fanout"]))
    polling_interval = 0.05
    default_port = 0
    driver_type = "filesystem"
    driver_name = "tiebreak"

    def driver_version(self) -> str:
        return "1"


TRANSPORT_ALIASES["tiebreak"] = "webapp.embedded.broker:Transport"
