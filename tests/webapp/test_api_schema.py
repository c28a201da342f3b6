"""The API against its own schema: whether data fits it or not, no request ends in a server error."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import hypothesis
import pytest
import schemathesis
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import transaction
from django.urls import resolve
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck
from hypothesis import strategies as st
from rest_framework.test import APIClient
from schemathesis.generation.case import Case
from schemathesis.generation.modes import GenerationMode
from schemathesis.schemas import APIOperation

from tests.webapp.access_world import World, make_world
from tests.webapp.test_permissions import API, address_of

pytestmark = pytest.mark.django_db
FEW, MANY = 4, 30  # requests for each operation and kind of data
PLACE = re.compile(r"<[^>]*>|{[^}]*}")


@pytest.fixture
def world(settings, tmp_path) -> World:
    storage = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": tmp_path}}
    settings.STORAGES = {**settings.STORAGES, "default": storage}
    settings.RATE_LIMITS = {"api": None, "judging": None}
    return make_world(tmp_path)


def operations() -> Iterator[APIOperation]:
    document = SchemaGenerator().get_schema(request=None, public=True)
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        yield found.ok()


def send(client: APIClient, address: str, case: Case) -> Any:
    query = urlencode(case.query or {}, doseq=True, errors="replace")
    address = f"{address}?{query}" if query else address
    if isinstance(case.body, dict) and case.media_type == "multipart/form-data":
        body = {
            name: SimpleUploadedFile("x.jsonl", value) if isinstance(value, bytes) else str(value)
            for name, value in case.body.items()
        }
        return getattr(client, case.method.lower())(address, body, format="multipart")
    if case.media_type != "application/json":
        return client.generic(case.method, address)
    body = json.dumps(case.body, default=str)  # bytes, where a string was wanted, as their Python form
    return client.generic(case.method, address, body, content_type="application/json")


def torture(world: World, who: str, examples: int) -> list[str]:
    """Every operation as this person, on rows that are there and others, with fitting and unfitting data."""
    client = APIClient(raise_request_exception=False)
    client.credentials(HTTP_AUTHORIZATION=world.apis[who]._credentials["HTTP_AUTHORIZATION"])
    names = {PLACE.sub("{}", f"/{resolve(address_of(world, name, who)).route}"): name for name in API}
    wrong: list[str] = []
    for operation in operations():
        real = address_of(world, names[PLACE.sub("{}", operation.path)], who)
        for mode in GenerationMode:
            wrong += failures(client, operation, mode, real=real, examples=examples)
    return wrong


def failures(
    client: APIClient, operation: APIOperation, mode: GenerationMode, *, real: str, examples: int
) -> list[str]:
    """Requests that ended in a server error. What they change is rolled back."""
    wrong = []

    def try_one(case: Case, is_real: bool) -> None:
        address = real if is_real else f"/{str(case.formatted_path).lstrip('/')}"
        with transaction.atomic():
            response = send(client, address, case)
            transaction.set_rollback(True)
        if response.status_code >= 500:
            wrong.append(f"{case.method} {address} {case.query} {str(case.body)[:300]}")

    test = hypothesis.given(case=operation.as_strategy(generation_mode=mode), is_real=st.booleans())(try_one)
    try:
        hypothesis.settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[hypothesis.Phase.generate],
        )(test)()
    except hypothesis.errors.Unsatisfiable:  # nothing about this operation can be wrong
        return []
    return wrong


@pytest.mark.parametrize("who", ["manager", "annotator"])
def test_no_server_error(world, who):
    wrong = torture(world, who, FEW)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["owner", "manager", "annotator"])
def test_no_server_error_at_length(world, who):
    wrong = torture(world, who, MANY)
    assert not wrong, "\n".join(wrong)
