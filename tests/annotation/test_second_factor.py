"""Two-factor sign-in: a code after the password or the link, recovery codes, and what guessing meets."""

import re
import time

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import hotp_value
from django.core.cache import cache
from django.test import Client

from annotation import services

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def no_counts():
    cache.clear()


@pytest.fixture
def anna():
    return services.create_user(username="anna", role="annotator", password=PASSWORD)


def code_for(secret, seconds_ago=0):
    """What an authenticator shows now, or showed some time ago: it changes every thirty seconds."""
    return f"{hotp_value(secret, int(time.time() - seconds_ago) // 30):06d}"


def sign_in(client, **form):
    return client.post("/sign-in/", {"username": "anna", "password": PASSWORD} | form)


@pytest.fixture
def protected(anna):
    """Anna after she set it up on the pages; her secret and her recovery codes."""
    client = Client()
    sign_in(client)
    confirm = client.get("/account/two-factor/totp/activate/", follow=True)
    if b'name="password"' in confirm.content:
        client.post("/account/confirm/?next=/account/two-factor/totp/activate/", {"password": PASSWORD})
    page = client.get("/account/two-factor/totp/activate/").content.decode()
    secret = re.search(r'<code class="secret">(\w+)</code>', page)[1]
    assert "<svg" in page
    response = client.post("/account/two-factor/totp/activate/", {"code": code_for(secret)}, follow=True)
    codes = re.findall(r"\b\d{8}\b", response.content.decode())
    assert len(codes) == 10
    cache.clear()  # a code counts once in its thirty seconds
    return secret, codes


def test_a_code_after_the_password(protected):
    client = Client()
    response = sign_in(client)
    assert response.url.startswith("/account/two-factor/authenticate/")
    assert client.get("/").status_code == 302  # not in yet
    wrong = client.post("/account/two-factor/authenticate/", {"code": "000000"})
    assert wrong.status_code == 200
    assert client.get("/").status_code == 302
    done = client.post("/account/two-factor/authenticate/", {"code": code_for(protected[0])})
    assert (done.status_code, done.url) == (302, "/")
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(("seconds_ago", "status"), [(30, 302), (60, 200)])
def test_a_code_that_changed_while_it_was_typed(protected, monkeypatch, seconds_ago, status):
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)  # else it may change once more
    client = Client()
    sign_in(client)
    code = code_for(protected[0], seconds_ago)
    assert client.post("/account/two-factor/authenticate/", {"code": code}).status_code == status


def test_a_code_after_a_link(protected, anna):
    client = Client()
    anna.refresh_from_db()  # links know when one last signed in
    link = services.sign_in_link(user=anna, base_url="http://testserver")
    assert client.get(link).url.startswith("/account/two-factor/authenticate/")
    assert client.get("/").status_code == 302


def test_recovery_codes_work_once(protected):
    for status in (302, 200):
        client = Client()
        sign_in(client)
        reply = client.post("/account/two-factor/authenticate/", {"code": protected[1][0]})
        assert reply.status_code == status


def test_guessing_ends(protected):
    client = Client()
    for _ in range(12):
        sign_in(client)
        client.post("/account/two-factor/authenticate/", {"code": "000000"})
    sign_in(client)
    client.post("/account/two-factor/authenticate/", {"code": code_for(protected[0])})
    assert client.get("/").status_code == 302


def test_the_secret_is_not_stored_as_it_is(protected):
    stored = str(Authenticator.objects.values_list("data", flat=True))
    assert protected[0] not in stored


def test_pages_have_nothing_inline(protected, anna):
    """The content security policy stays as it is everywhere."""
    client = Client()
    sign_in(client)
    client.post("/account/two-factor/authenticate/", {"code": protected[1][1]})
    client.post("/account/confirm/", {"password": PASSWORD})
    for path in ("", "totp/deactivate/", "recovery-codes/", "recovery-codes/generate/"):
        response = client.get(f"/account/two-factor/{path}")
        body = response.content.decode()
        assert response.status_code == 200, path
        assert not re.search(r"<style|style=|<script(?! src=)|javascript:|data:image|onclick", body), path
        assert "Sign out" in body, path  # it is one of our pages
        assert "'unsafe" not in response["Content-Security-Policy"]
