"""The client and the API's schema name the same calls, and the client sends what each must have."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from drf_spectacular.generators import SchemaGenerator

from annotation.client import Client
from annotation.client.connection import Connection

# Calls of the client that name no operation of their own, and why.
GENERAL = {
    "call": "any call, by its path",
    "rows": "any list, by its path",
    "download": "any file, by a path that the server named",
    "save": "the same, into a file",
    "close": "sends nothing",
}
REPLY = json.dumps(
    {"results": [], "next": None, "status": "done"}
).encode()  # a list, a job, whatever is asked
PLACE = re.compile(r"{[^}]*}")


class Asked(Connection):
    """Notes what would be sent."""

    def __init__(self) -> None:
        super().__init__("http://localhost", "token", timeout=1)
        self.sent: list[tuple[str, str, bytes | None]] = []

    def send(self, method: str, path: str, body: Any, kind: str = "", **_options: Any) -> bytes:
        self.sent.append((method, path, body if body is None or isinstance(body, bytes) else b"".join(body)))
        return REPLY


def value_for(kind: Any, folder: Path) -> Any:
    """Something that fits a parameter's type; 7 where a number is wanted, so that paths can be told apart."""
    if get_origin(kind) is Mapping:
        return {}
    if get_origin(kind) is Sequence:
        return []
    if kind is Path:
        (folder / "rows.jsonl").write_text("{}")
        return folder / "rows.jsonl"
    choices = get_args(kind)
    return {int: 7, str: "7", bool: True}.get(kind) or (choices[0] if choices else 7)


def requests_of(name: str, folder: Path) -> list[tuple[str, str, bytes | None]]:
    """What the method of this name sends when it is called with its required arguments."""
    client = Client("http://localhost", "token")
    client._connection = asked = Asked()
    method = getattr(client, name)
    kinds = get_type_hints(method)
    required = {
        parameter.name: value_for(kinds[parameter.name], folder)
        for parameter in inspect.signature(method).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    }
    reply = method(**required)
    if isinstance(reply, Iterator):
        list(reply)
    return asked.sent


def methods() -> list[str]:
    return [name for name in vars(Client) if not name.startswith("_") and name not in GENERAL]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return SchemaGenerator().get_schema(request=None, public=True)


def operation_of(document: dict[str, Any], method: str, path: str) -> tuple[str, str]:
    bare = path.partition("?")[0]
    fitting = [known for known in document["paths"] if PLACE.sub("7", known) == bare]
    assert len(fitting) == 1, f"The API has no {method} {bare}."
    assert method.lower() in document["paths"][fitting[0]], f"The API has no {method} {bare}."
    return method, fitting[0]


def operations(document: dict[str, Any]) -> set[tuple[str, str]]:
    verbs = {"get", "post", "put", "patch", "delete"}
    return {
        (verb.upper(), path) for path, found in document["paths"].items() for verb in found if verb in verbs
    }


def test_every_operation_has_a_method(document, tmp_path):
    reached = {
        operation_of(document, verb, path)
        for name in methods()
        for verb, path, _body in requests_of(name, tmp_path)
    }
    missing = operations(document) - reached
    assert not missing, f"annotation.client has no method for {sorted(missing)}"


def required_keys(document: dict[str, Any], verb: str, path: str) -> set[str]:
    operation = document["paths"][path][verb.lower()]
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    schema = document["components"]["schemas"].get(name, {"properties": {}})
    written = {key for key, value in schema["properties"].items() if not value.get("readOnly")}
    return written & set(schema.get("required", ()))


def test_what_an_operation_must_have_is_sent(document, tmp_path):
    """`judge` takes the whole answer from its caller; `client_id` it makes itself."""
    short = {}
    for name in methods():
        for verb, path, body in requests_of(name, tmp_path):
            wanted = required_keys(document, *operation_of(document, verb, path))
            given = set(json.loads(body)) if body and body.startswith(b"{") else set()
            if missing := wanted - given:
                short[name] = missing
    assert not short


def test_general_calls_exist():
    assert all(hasattr(Client, name) for name in GENERAL)
