"""A test for each class of vulnerability that annotation tools have had.

Where a class has tests of its own, they lie beside what they are about: server-side requests in
`tests/annotation/test_webhooks.py`, object-level authorisation in `tests/webapp/test_permissions.py`, open
registration in `tests/annotation/test_invitations.py`. `docs/security.md` lists all of them.
"""

import json
import os
import re
import subprocess
import sys
import uuid
import zlib
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings as site_settings
from django.core.files.storage import FileSystemStorage
from django.db import connection
from django.test import Client
from django.urls import get_resolver, reverse
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator
from PIL import Image
from rest_framework.test import APIClient

from annotation import services
from annotation.errors import Invalid
from annotation.formats.images import BadImage, reencode
from annotation.models import Comparison, Judgement, Project, User
from tests.annotation import factories
from tests.annotation.conftest import api_client, page_client
from tests.annotation.files import jsonl, png, run, zipped
from tests.webapp.access_world import make_world
from tests.webapp.test_permissions import API, PAGES, ask, patterns
from training import services as training_services
from training.models import BaseModel
from training.tuning.registry import METHODS

pytestmark = pytest.mark.django_db
ROOT = Path(site_settings.BASE_DIR)
PASSWORD = "correct horse battery"
HOSTILE = "\"'><img src=x onerror=alert(1)></script><script>alert(1)</script>"


@pytest.fixture
def owner():
    return services.create_user(username="owner", role="manager", password=PASSWORD)


@pytest.fixture
def project(owner):
    return factories.make_project(by=owner)


@pytest.fixture
def annotator(project):
    (user,) = factories.add_annotators(project, 1)
    return user


def settings_with(expression: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """What an expression about the settings `s` gives in a fresh process with this environment."""
    kept = {key: value for key, value in os.environ.items() if key not in ("SECRET_KEY", "DATABASE_URL")}
    script = f"import json, webapp.settings as s; print(json.dumps({expression}))"
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=kept | {"TIEBREAK_DATA": str(folder)} | env,
        cwd=ROOT,
    )


# ORM filter leak: CVE-2023-47117


@pytest.mark.parametrize(
    "filters", ["user__password__startswith=p", "members__user__password=x", "ordering=-pk"]
)
def test_orm_filter_leak(owner, project, filters):
    """Nothing in an address becomes a lookup: what is not known is an error, or changes nothing."""
    client = api_client(owner)
    for name in ("project-list", "api-runs", "api-checkpoints", "api-matches", "api-schedules"):
        plain, asked = client.get(reverse(name)), client.get(f"{reverse(name)}?{filters}")
        assert asked.status_code == 400 or asked.json() == plain.json(), name
    assert client.get(f"/api/v1/projects/{project.pk}/audit/?{filters}").status_code == 400
    assert page_client(owner).get(f"/projects/{project.pk}/data/?{filters}").status_code == 200


# Shipped secret: CVE-2023-43791


def test_shipped_secret(tmp_path):
    """Each data directory has its own, which only its owner reads; a replaced database wants one."""
    found = [settings_with("s.SECRET_KEY", tmp_path / name).stdout for name in ("one", "one", "two")]
    assert found[0] == found[1] != found[2]
    assert len(json.loads(found[0])) == 64
    assert (tmp_path / "one" / "secret_key").stat().st_mode & 0o077 == 0
    url = "postgres://somebody@db.example.org/x"
    assert "SECRET_KEY is not" in settings_with("1", tmp_path, DATABASE_URL=url).stderr
    assert "shorter than 32" in settings_with("1", tmp_path, SECRET_KEY="1234").stderr
    assert settings_with("1", tmp_path, DATABASE_URL=url, SECRET_KEY="x" * 32).returncode == 0


def test_no_secret_is_in_the_files():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = re.compile(r"""(SECRET_KEY|PASSWORD|API_KEY|TOKEN)["']?\s*[:=]\s*["']?[A-Za-z0-9+/]{16,}""")
    for name in listed.splitlines():
        if name.startswith(("webapp/", "docker/", "annotation/", "training/")) and name.endswith(
            (".py", ".yml")
        ):
            assert not named.search((ROOT / name).read_text()), name


# Default login: argilla/1234


def test_default_login(client):
    assert not User.objects.exists()
    for name, password in (("admin", "admin"), ("argilla", "1234"), ("manager", "manager"), ("", "")):
        assert client.post("/sign-in/", {"username": name, "password": password}).status_code == 200
        assert "_auth_user_id" not in client.session


# Upload XSS: CVE-2023-47115, CVE-2024-23633


def test_upload_xss(owner, tmp_path, settings):
    """What comes with a picture is gone; what can hold a script is no picture; it is served as what it is."""
    storage = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": tmp_path}}
    settings.STORAGES = {**settings.STORAGES, "default": storage}
    script = b"<script>alert(1)</script>"
    assert script not in reencode(png() + script).png
    for drawing in (b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', b"<html>" + script):
        with pytest.raises(BadImage):
            reencode(drawing)
    project = factories.make_project(by=owner, modality="image")
    row = {"prompt": "x", "responses": ["a.png", "b.png"]}
    run(project, zipped({"x.jsonl": jsonl(row), "a.png": png() + script, "b.png": png(colour="blue")}))
    lease = services.next_lease(project=project, user=owner, now=timezone.now())
    comparison = Comparison.objects.get()
    for address in (
        f"/api/v1/leases/{lease.pk}/media/0",
        f"/projects/{project.pk}/data/{comparison.pk}/0/image/",
    ):
        response = page_client(owner).get(address)
        assert (response["Content-Type"], response["X-Content-Type-Options"]) == ("image/png", "nosniff")
        assert "default-src 'none'" in response["Content-Security-Policy"]
        assert script not in b"".join(response)


# Stored XSS and IDOR: CVE-2026-22033


def test_stored_xss_and_idor(tmp_path, settings):
    """Hostile texts in every place that people write to, on every page that shows them."""
    storage = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": tmp_path}}
    settings.STORAGES = {**settings.STORAGES, "default": storage}
    world = make_world(tmp_path)
    owner, project = world.users["owner"], world.project
    questions = [{"type": "choice", "text": HOSTILE}]
    services.update_project(project=project, name=HOSTILE, guidelines=HOSTILE, questions=questions)
    candidates = [{"text": HOSTILE, "source": HOSTILE}, {"text": f"{HOSTILE} b", "source": HOSTILE}]
    services.add_comparisons(project=project, groups=[{"prompt": HOSTILE, "candidates": candidates}])
    services.invite(project=project, role="viewer", by=owner, note=HOSTILE, now=timezone.now())
    services.issue_token(user=owner, name=HOSTILE)
    Comparison.objects.filter(project=project).update(prompt=HOSTILE)
    seen = 0
    for name, route in PAGES.items():
        if "GET" not in route.who or name == "api-schema":
            continue
        response = ask(world, name, "GET", "owner")
        if response["Content-Type"].startswith("text/html"):
            body = response.content.decode()
            seen += "onerror=alert(1)" in body
            assert not re.search(r"<img[^>]*onerror|<script>alert", body), name
    assert seen >= 10  # the texts were there, as texts
    foreign = factories.make_project(by=world.users["outsider"])
    (theirs,) = factories.add_texts(foreign, 1)
    for address in (
        f"data/{theirs.pk}/",
        f"data/{theirs.pk}/0/image/",
        f"members/{foreign.created_by_id}/link/",
    ):
        page = world.pages["owner"]
        status = (page.post if "link" in address else page.get)(
            f"/projects/{project.pk}/{address}"
        ).status_code
        assert status == 404, address


# Reflected XSS: CVE-2025-25296, CVE-2025-47783


def test_reflected_xss(owner, project):
    page = page_client(owner)
    for address in (
        f"/projects/{project.pk}/data/?q={HOSTILE}&state={HOSTILE}&page={HOSTILE}",
        f"/projects/{project.pk}/audit/?actor={HOSTILE}&since={HOSTILE}",
        f"/projects/{project.pk}/runs/compare/?a={HOSTILE}",
        "/no-such-page/<script>alert(1)</script>",
    ):
        assert "<script>alert" not in page.get(address).content.decode(), address
    error = api_client(owner).get(f"/api/v1/projects/?cursor={HOSTILE}")
    assert error["Content-Type"] in ("application/problem+json", "application/json")
    assert error["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example/", "javascript:alert(1)", "\\\\evil"]
)
def test_open_redirect(owner, target):
    response = Client().post("/sign-in/", {"username": "owner", "password": PASSWORD, "next": target})
    assert (response.status_code, response["Location"]) == (302, "/")


# XSS in labels and choices: CVE-2024-26152


def test_xss_in_labels_and_choices(annotator, project):
    """Titles of the template reach the judging page as texts, and end no script element."""
    tag = {"name": "odd", "title": HOSTILE}
    questions = [{"type": "choice", "text": HOSTILE}, {"type": "tags", "text": HOSTILE, "options": [tag]}]
    services.update_project(project=project, questions=questions)
    factories.add_texts(project, 1)
    body = page_client(annotator).get(f"/projects/{project.pk}/judge/").content.decode()
    assert "onerror" in body
    assert not re.search(r"<img[^>]*onerror|<script>alert|</script><script>", body)


# Path traversal: GHSA-cpmr-mw4j-99r7, CVE-2025-25295, GHSA-q9m2-fhv9-3jcf


def test_path_traversal(owner, annotator, project, tmp_path, settings):
    """No name that a person gives becomes a path."""
    storage = {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": tmp_path / "s"},
    }
    settings.STORAGES = {**settings.STORAGES, "default": storage}
    page = page_client(owner)
    for address in ("/static/../../etc/passwd", "/static/%2e%2e/%2e%2e/etc/passwd", "/static//etc/passwd"):
        assert page.get(address).status_code == 404, address
    pictures = factories.make_project(by=owner, modality="image")
    for name in ("../../outside.png", "/etc/passwd", "..\\outside.png"):
        row = {"prompt": "x", "responses": [name, "b.png"]}
        job = run(pictures, zipped({"x.jsonl": jsonl(row), name: png(), "b.png": png(colour="blue")}))
        assert job.accepted == 0, name
    assert not list(tmp_path.glob("*.png"))
    exported = services.start_export(project=project, by=owner, format="groups")
    services.run_export(exported.pk)
    exported.refresh_from_db()
    assert re.fullmatch(r"groups-\d+-\d+\.\w+", exported.file_name)


# Unsafe model load: CVE-2025-5173, CVE-2026-26220


def test_unsafe_model_load(owner, tmp_path):
    """Weights are read as safetensors; a pickle is refused by name, and no code loads one blindly."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(Invalid, match="pickle"):
        training_services.register_base_model(by=owner, name="x", modality="text", location=str(folder))
    for path in (ROOT / "training").rglob("*.py"):
        text = path.read_text()
        assert "trust_remote_code=True" not in text, path
        assert not re.search(r"import pickle\b", text), path
        for call in re.findall(r"torch\.load\((?:[^()]|\([^()]*\))*\)", text):
            assert "weights_only=True" in call, (path, call)


# Server-side requests to storage and to workers: CVE-2025-25297, CVE-2024-10044, CVE-2024-40441


ADDRESSES = re.compile(r"ur[il]|endpoint|host|address|server|bucket|broker|proxy", re.IGNORECASE)


def test_no_request_says_where_storage_or_workers_are():
    """Operators say so in the environment. What a run's config may say of a server is whether to ask one."""
    document = SchemaGenerator().get_schema(request=None, public=True)
    asked = json.dumps(
        [
            operation.get("requestBody", {})
            for path in document["paths"].values()
            for operation in path.values()
        ]
    )
    bodies = {
        f"{name}.{key}"
        for name in set(re.findall(r"#/components/schemas/(\w+)", asked))
        for key in document["components"]["schemas"][name].get("properties", {})
        if ADDRESSES.search(key)
    }
    configs = {
        f"{method.name}.{key}"
        for method in METHODS
        for key in method.config.model_fields
        if ADDRESSES.search(key)
    }
    assert bodies == {"Webhook.url", "PatchedWebhookChange.url"}
    assert configs == set()


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest",
        "https://x/y",
        "s3://bucket/model",
        "file:///etc",
        "http:/x",
        "//x/y",
        "../x",
    ],
)
def test_a_model_is_no_address(owner, location):
    client = api_client(owner)
    body = {"name": "x", "modality": "text", "location": location}
    refused = client.post("/api/v1/models/", body)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "location")
    assert not BaseModel.objects.exists()


# Denial of service by a blocked worker: CVE-2026-6607


def test_dos_by_blocking_worker(owner, project):
    """A request makes a row and leaves the work to others; a body that would fill the memory is not read."""
    client = api_client(owner)
    job = client.post(f"/api/v1/projects/{project.pk}/exports/", {"format": "groups"})
    assert (job.status_code, job.json()["status"]) == (202, "queued")
    large = json.dumps({"name": "x" * (site_settings.DATA_UPLOAD_MAX_MEMORY_SIZE + 1), "modality": "text"})
    refused = client.generic("POST", "/api/v1/projects/", large, content_type="application/json")
    assert refused.status_code == 400
    assert not Project.objects.filter(name__startswith="x").exists()


# Image bombs: CVE-2023-4863, CVE-2023-50447


def test_image_bombs(monkeypatch):
    """The size is read from the header, and nothing is decoded that is too large."""
    bomb = bytearray(png(size=(1, 1)))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(BadImage, match="pixels"):
        reencode(bytes(bomb))


# Cross-site request forgery: LS#6619


def test_csrf(owner, project):
    """Every page that changes something wants the token of the form, and so does the API with a session."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    for name, route in PAGES.items():
        if "POST" in route.who and not set(route.rows) - {"pk"}:
            address = reverse(name, kwargs=dict.fromkeys(route.rows, project.pk))
            assert client.post(address).status_code == 403, name
    for name, route in API.items():
        if "POST" in route.who and set(route.rows) <= {"pk"}:
            address = reverse(name, kwargs=dict.fromkeys(route.rows, project.pk))
            as_json = {} if name == "project-imports" else {"content_type": "application/json"}
            response = client.post(address, {}, **as_json)
            assert (response.status_code, "CSRF" in response.json()["detail"]) == (403, True), name


def test_no_page_is_exempt_from_csrf():
    exempt = [
        pattern.name
        for pattern in _views(get_resolver())
        if getattr(pattern.callback, "csrf_exempt", False) and not hasattr(pattern.callback, "cls")
    ]
    assert exempt == []


def _views(resolver):
    for entry in resolver.url_patterns:
        yield from _views(entry) if hasattr(entry, "url_patterns") else [entry]


# Debug bypass: Potato's `debug: true`


def test_debug_bypass(settings, client, project, tmp_path):
    settings.DEBUG = True
    assert client.get(f"/projects/{project.pk}/").status_code == 302
    assert client.get("/api/v1/projects/").status_code == 401
    assert settings_with("s.DEBUG", tmp_path).stdout.strip() == "false"


# Client-supplied user id: Pick-a-Pic's /ws


def test_client_supplied_user_id(owner, annotator, project):
    """Who judges is who is signed in, whatever the body or the address says."""
    factories.add_texts(project, 2)
    client = api_client(annotator)
    lease = client.post(f"/api/v1/projects/{project.pk}/next/?user={owner.pk}").json()["lease"]
    body = {"client_id": str(uuid.uuid4()), "choice": 0}
    for key in ("annotator", "user", "user_id"):
        client.post(f"/api/v1/leases/{lease}/judgement/", body | {key: owner.pk})
    client.post(f"/api/v1/leases/{lease}/judgement/", body)
    assert Judgement.objects.get().annotator == annotator


# Weak defaults: report-only policies, insecure cookies, CORS and ALLOWED_HOSTS "*"


def test_weak_defaults(client, owner, tmp_path):
    response = client.post("/sign-in/", {"username": "owner", "password": PASSWORD})
    session = response.cookies["sessionid"]
    assert (session["httponly"], session["samesite"]) == (True, "Lax")
    assert "Content-Security-Policy" in response
    assert "Content-Security-Policy-Report-Only" not in response
    assert "Access-Control-Allow-Origin" not in client.get("/", headers={"origin": "https://evil.example"})
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    behind = settings_with(
        "[s.SESSION_COOKIE_SECURE, s.CSRF_COOKIE_SECURE, s.SECURE_SSL_REDIRECT,"
        " s.SECURE_HSTS_SECONDS >= 31536000, '*' not in s.ALLOWED_HOSTS]",
        tmp_path,
        BEHIND_HTTPS="1",
    )
    assert json.loads(behind.stdout) == [True] * 5


# Presigned URLs: LS#4090, LS#6472


def test_presigned_urls(owner, annotator, tmp_path, settings, monkeypatch):
    """No address of the storage is given away: each download asks anew who wants it."""
    monkeypatch.setattr(
        FileSystemStorage, "url", lambda self, name: pytest.fail("a storage address was made")
    )
    storage = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": tmp_path}}
    settings.STORAGES = {**settings.STORAGES, "default": storage}
    project = factories.make_project(by=owner)
    services.add_member(project=project, username=annotator.username, role="manager", by=owner)
    job = services.start_export(project=project, by=owner, format="groups")
    services.run_export(job.pk)
    client = api_client(annotator)
    address = client.get(f"/api/v1/exports/{job.pk}/").json()["download"]
    first = client.get(address)
    assert (first.status_code, first["X-Content-Type-Options"]) == (200, "nosniff")
    assert first["Content-Disposition"].startswith("attachment")
    services.remove_member(project=project, user=annotator, by=owner)
    assert client.get(address).status_code == 404
    assert APIClient().get(address).status_code == 401


# Vote rigging: hundreds of votes move ranks


def test_vote_rigging(owner, annotator, project, settings):
    """An account, one answer for each comparison, and a pace that a person can have."""
    factories.add_texts(project, 1, needed=5)
    client = api_client(annotator)
    assert APIClient().post(f"/api/v1/projects/{project.pk}/next/").status_code == 401
    lease = client.post(f"/api/v1/projects/{project.pk}/next/").json()["lease"]
    url = f"/api/v1/leases/{lease}/judgement/"
    statuses = [client.post(url, {"client_id": str(uuid.uuid4()), "choice": 0}).status_code for _ in range(3)]
    assert statuses == [201, 409, 409]
    assert client.post(f"/api/v1/projects/{project.pk}/next/").status_code == 204
    settings.RATE_LIMITS = {"api": None, "judging": (1, timedelta(hours=1))}
    again = [client.post(f"/api/v1/projects/{project.pk}/next/").status_code for _ in range(3)]
    assert again[-1] == 429


# Raw addresses: FastChat logs them


def test_raw_ips(owner, project, caplog):
    """After signing in, failing to, and calling the API, no table and no log line has the address."""
    address = "203.0.113.77"
    client = Client(REMOTE_ADDR=address)
    client.post("/sign-in/", {"username": "owner", "password": "wrong"})
    client.post("/sign-in/", {"username": "owner", "password": PASSWORD})
    api = APIClient(REMOTE_ADDR=address)
    api.credentials(HTTP_AUTHORIZATION=f"Token {services.issue_token(user=owner)}")
    api.get("/api/v1/projects/")
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT count(*) FROM "{table}" AS t WHERE t::text LIKE %s', [f"%{address}%"])
            assert cursor.fetchone() == (0,), table
    assert address not in caplog.text


def test_forwarded_addresses_are_believed_behind_our_proxy_only(owner, settings):
    """Else a guesser would have a new address for each guess."""
    for behind, tries_left in ((False, False), (True, False)):
        settings.BEHIND_HTTPS = behind
        settings.SECURE_SSL_REDIRECT = False
        statuses = [
            Client(REMOTE_ADDR="10.0.0.1")
            .post(
                "/sign-in/",
                {"username": f"guess{behind}{n}", "password": "x"},
                headers={"x-forwarded-for": f"192.0.2.{n}, 198.51.100.7"},
            )
            .status_code
            for n in range(101)
        ]
        assert (statuses[-1] == 200) is tries_left


def test_the_table_of_addresses_is_whole():
    """Object-level authorisation (CVE-2024-47172) is tried for all of them in test_permissions."""
    assert len(dict(patterns(get_resolver()))) > 60
