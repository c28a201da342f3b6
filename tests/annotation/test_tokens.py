"""API tokens: scopes, a project, an end, and the page to make and revoke one's own."""

from datetime import timedelta

import pytest
from django.db import IntegrityError
from django.utils import timezone
from rest_framework.test import APIClient

from annotation import services
from annotation.errors import Invalid
from annotation.models import ApiToken
from tests.annotation import factories

pytestmark = pytest.mark.django_db


def call(token, path="projects/"):
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    return client.get(f"/api/v1/{path}")


def test_a_token_of_ones_own(manager_page, manager, project):
    form = {"name": "nightly export", "scopes": ["read"], "project": project.pk, "days": 30}
    body = manager_page.post("/tokens/", form).content.decode()
    secret = body.split('<code class="secret">')[1].split("</code>")[0]
    token = ApiToken.objects.get()
    assert (token.user, token.scopes, token.project) == (manager, ["read"], project)
    assert timedelta(days=29) < token.expires_at - timezone.now() < timedelta(days=31)
    again = manager_page.get("/tokens/").content.decode()
    assert "nightly export" in again
    assert secret not in again
    assert call(secret, f"projects/{project.pk}/").status_code == 200
    manager_page.post(f"/tokens/{token.pk}/revoke/")
    assert call(secret).status_code == 401


def test_others_tokens_are_out_of_reach(outsider_page, manager):
    services.issue_token(user=manager, name="mine")
    token = ApiToken.objects.get()
    assert "mine" not in outsider_page.get("/tokens/").content.decode()
    assert outsider_page.post(f"/tokens/{token.pk}/revoke/").status_code == 404
    assert ApiToken.objects.exists()


def test_other_peoples_projects_are_no_choice(outsider_page, project):
    form = {"name": "x", "scopes": ["read"], "project": project.pk, "days": 30}
    assert "Select a valid choice" in outsider_page.post("/tokens/", form).content.decode()
    assert not ApiToken.objects.exists()


def test_a_token_makes_no_token(manager):
    """The page wants a session; the header of a token means nothing there."""
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {services.issue_token(user=manager)}")
    assert client.post("/tokens/", {"name": "more", "scopes": ["train"]}).status_code == 302
    assert ApiToken.objects.count() == 1


def test_tokens_end(manager):
    soon = timezone.now() + timedelta(seconds=60)
    token = services.issue_token(user=manager, expires_at=soon)
    assert call(token).status_code == 200
    ApiToken.objects.update(expires_at=timezone.now())
    assert call(token).status_code == 401


def test_last_used_is_noted_to_the_minute(manager, django_assert_num_queries):
    token = services.issue_token(user=manager)
    assert ApiToken.objects.get().last_used_at is None
    with django_assert_num_queries(4):  # the token, its use, its rate, the list
        call(token)
    first = ApiToken.objects.get().last_used_at
    assert timezone.now() - first < timedelta(minutes=1)
    with django_assert_num_queries(3):
        call(token)
    ApiToken.objects.update(last_used_at=first - timedelta(minutes=2))
    call(token)
    assert ApiToken.objects.get().last_used_at >= first


@pytest.mark.parametrize("scopes", [[], ["everything"], ["read", "root"]])
def test_unknown_scopes(manager, scopes):
    with pytest.raises(Invalid):
        services.issue_token(user=manager, scopes=scopes)


def test_the_database_knows_the_scopes(manager):
    with pytest.raises(IntegrityError, match="api_token_scopes_known"):
        ApiToken.objects.create(user=manager, digest="x", scopes=["root"])


def test_a_token_for_one_project_creates_none(manager, project):
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {services.issue_token(user=manager, project=project)}")
    assert client.post("/api/v1/projects/", {"name": "x", "modality": "text"}).status_code == 403
    assert [row["id"] for row in client.get("/api/v1/projects/").json()["results"]] == [project.pk]
    factories.make_project(by=manager)
    assert [row["id"] for row in client.get("/api/v1/projects/").json()["results"]] == [project.pk]
