"""Who may do what over the API: every address, for strangers, outsiders, annotators and managers."""

import uuid

import pytest

from annotation import services
from annotation.models import ExportJob, ImportJob
from tests.annotation import factories
from tests.annotation.conftest import api_client
from tests.annotation.test_api import PROBLEM, upload

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(project, annotator, outsider):
    """One of everything, with the calls that name it."""
    factories.add_texts(project, 3)
    lease = services.next_lease(project=project, user=annotator, now=factories.NOW)
    judgement, following = services.submit_judgement(
        lease_id=lease.pk,
        annotator=annotator,
        client_id=uuid.uuid4(),
        choice=0,
        now=factories.NOW,
        want_next=True,
    )
    imports = ImportJob.objects.create(project=project, format="trl", created_by=project.created_by)
    exports = ExportJob.objects.create(project=project, format="trl", created_by=project.created_by)
    own = {"member": ("GET", f"projects/{project.pk}/"), "next": ("POST", f"projects/{project.pk}/next/")}
    managing = {
        "members": ("POST", f"projects/{project.pk}/members/"),
        "imports": ("POST", f"projects/{project.pk}/imports/"),
        "import": ("GET", f"imports/{imports.pk}/"),
        "exports": ("POST", f"projects/{project.pk}/exports/"),
        "export": ("GET", f"exports/{exports.pk}/"),
        "download": ("GET", f"exports/{exports.pk}/download/"),
    }
    personal = {
        "judgement": ("POST", f"leases/{following.pk}/judgement/"),
        "renew": ("POST", f"leases/{following.pk}/renew/"),
        "skip": ("POST", f"leases/{following.pk}/skip/"),
        "media": ("GET", f"leases/{following.pk}/media/0"),
        "undo": ("POST", f"judgements/{judgement.pk}/undo/"),
    }
    return {"own": own, "managing": managing, "personal": personal}


def ask(client, method, path):
    body = None
    if path.endswith("/judgement/"):
        body = {"client_id": str(uuid.uuid4()), "choice": 0}
    if path.endswith("/imports/"):
        return client.post(f"/api/v1/{path}", {"file": upload(), "format": "trl"}, format="multipart")
    return getattr(client, method.lower())(f"/api/v1/{path}", body)


def test_strangers_get_401(world, client):
    for group in world.values():
        for method, path in group.values():
            response = getattr(client, method.lower())(f"/api/v1/{path}")
            assert (response.status_code, response["WWW-Authenticate"]) == (401, "Token"), path
            assert response["Content-Type"] == PROBLEM


def test_outsiders_get_404(world, as_outsider):
    for group in world.values():
        for method, path in group.values():
            assert ask(as_outsider, method, path).status_code == 404, path


def test_annotators_may_not_manage(world, as_annotator):
    for method, path in world["managing"].values():
        response = ask(as_annotator, method, path)
        assert response.status_code == 403, path
        assert response["Content-Type"] == PROBLEM


def test_managers_do_not_reach_into_others_hands(world, as_manager):
    for method, path in world["personal"].values():
        assert ask(as_manager, method, path).status_code == 404, path


def test_members_may(world, as_annotator):
    for method, path in world["own"].values():
        assert ask(as_annotator, method, path).status_code == 200, path


def test_annotators_do_not_create_projects(as_annotator):
    response = as_annotator.post("/api/v1/projects/", {"name": "Mine", "modality": "text"})
    assert response.status_code == 403


def test_tokens(annotator):
    client = api_client(annotator)
    for scheme in ("Token", "Bearer", "bearer"):
        client.credentials(HTTP_AUTHORIZATION=f"{scheme} {services.issue_token(user=annotator)}")
        assert client.get("/api/v1/projects/").status_code == 200
    for header in ("Token wrong", "Token ", "Bearer é"):
        client.credentials(HTTP_AUTHORIZATION=header)
        assert client.get("/api/v1/projects/").status_code == 401
    client.credentials(HTTP_AUTHORIZATION=f"Token {services.issue_token(user=annotator)}")
    annotator.is_active = False
    annotator.save()
    assert client.get("/api/v1/projects/").status_code == 401


def test_sessions_need_a_csrf_token(annotator, project):
    from rest_framework.test import APIClient

    factories.add_texts(project, 1)
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(annotator, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get(f"/api/v1/projects/{project.pk}/").status_code == 200
    assert client.post(f"/api/v1/projects/{project.pk}/next/").status_code == 403


def test_numbers_that_no_row_can_have(as_manager):
    huge = 10**20
    for method, path in (
        ("GET", f"projects/{huge}/"),
        ("POST", f"projects/{huge}/next/"),
        ("POST", f"judgements/{huge}/undo/"),
        ("GET", f"imports/{huge}/"),
        ("GET", f"exports/{huge}/download/"),
    ):
        assert ask(as_manager, method, path).status_code == 404, path
