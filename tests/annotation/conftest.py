"""A project with a manager, an annotator and an outsider, and an API client for each."""

import pytest
from django.test import Client
from rest_framework.test import APIClient

from annotation import services
from annotation.models import User
from tests.annotation import factories


@pytest.fixture
def manager(db):
    return factories.make_user("manager", username="mona")


@pytest.fixture
def project(manager):
    return factories.make_project(by=manager)


@pytest.fixture
def image_project(manager):
    return factories.make_project(by=manager, modality="image")


@pytest.fixture
def annotator(project):
    user = factories.make_user(username="anna")
    services.add_member(project=project, username="anna", role="annotator", by=project.created_by)
    return user


@pytest.fixture
def outsider(db):
    return factories.make_user("manager", username="otto")


def api_client(user) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {services.issue_token(user=user)}")
    return client


@pytest.fixture
def as_manager(manager):
    return api_client(manager)


@pytest.fixture
def as_annotator(annotator):
    return api_client(annotator)


@pytest.fixture
def as_outsider(outsider):
    return api_client(outsider)


def page_client(user: User) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def manager_page(manager):
    return page_client(manager)


@pytest.fixture
def annotator_page(annotator):
    return page_client(annotator)


@pytest.fixture
def outsider_page(outsider):
    return page_client(outsider)
