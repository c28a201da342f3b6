"""OpenID Connect from end to end, against a provider on the loopback."""

import os
import subprocess
import sys

import pytest
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from annotation import services
from annotation.models import Member, User
from tests.annotation.oidc_provider import CLIENT, SECRET, Provider

pytestmark = pytest.mark.django_db
LOGIN = "/account/oidc/sso/"


@pytest.fixture
def provider(settings):
    cache.clear()
    with Provider() as running:
        app = {"provider_id": "sso", "name": "Our house", "client_id": CLIENT, "secret": SECRET}
        app |= {"settings": {"server_url": running.issuer}}
        settings.SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"APPS": [app], "OAUTH_PKCE_ENABLED": True}}
        yield running


def go_through(client, provider, start=LOGIN):
    """From our button to the provider and back."""
    away = client.post(start)
    assert away.status_code == 302
    return client.get(provider.authorize(away.url), follow=True)


def test_an_invited_person_gets_an_account(provider, project, manager):
    secret = services.invite(project=project, role="annotator", by=manager, now=timezone.now())[1]
    client, address = Client(), f"/invitations/{secret}/"
    page = client.get(address).content.decode()
    assert "Sign in with Our house" in page
    back = go_through(client, provider, f"{LOGIN}?next={address}")
    assert back.redirect_chain[-1][0] == address
    user = User.objects.get(username="olga")
    assert (user.role, user.has_usable_password()) == ("annotator", False)
    assert "Join as olga" in back.content.decode()
    client.post(address)
    assert Member.objects.get(user=user, project=project).role == "annotator"
    again = Client()
    go_through(again, provider)
    assert again.session["_auth_user_id"] == str(user.pk)


def test_nobody_else_does(provider):
    client = Client()
    back = go_through(client, provider)
    assert "By invitation only" in back.content.decode()
    assert not User.objects.exists()
    assert "_auth_user_id" not in client.session


def test_a_foreign_address_takes_over_no_account(provider):
    """Who has the same mail address at the provider is not let into an account that is not connected."""
    services.create_user(username="olga", role="manager", password="correct horse battery")
    User.objects.update(email="olga@example.org")
    client = Client()
    go_through(client, provider)
    assert "_auth_user_id" not in client.session


def test_connecting_an_account(provider, annotator):
    annotator.set_password("correct horse battery")
    annotator.save()
    client = Client()
    client.post("/sign-in/", {"username": "anna", "password": "correct horse battery"})
    page = client.get("/account/connections/").content.decode()
    assert "Our house" in page
    back = go_through(client, provider, f"{LOGIN}?process=connect&next=/")
    assert back.redirect_chain[-1][0] == "/account/confirm/"  # a session left open is not enough
    client.post("/account/confirm/", {"password": "correct horse battery"})
    again = Client()
    go_through(again, provider)
    assert again.session["_auth_user_id"] == str(annotator.pk)


@pytest.mark.parametrize("forged", ["state", "audience"])
def test_forged_replies_are_refused(provider, annotator, forged):
    client = Client()
    away = client.post(LOGIN)
    if forged == "audience":
        provider.audience = "another client"
    back = provider.authorize(away.url)
    response = client.get(back.replace("state=", "state=x") if forged == "state" else back)
    assert "_auth_user_id" not in client.session
    assert response.status_code < 500
    assert not User.objects.filter(username="olga").exists()


def test_starting_wants_a_click(provider):
    """A GET shows a page with a button: nobody is signed in by a link on a foreign page."""
    response = Client().get(LOGIN)
    assert response.status_code == 200
    assert "<form" in response.content.decode()


def settings_with(**env):
    script = "import webapp.settings as s; print(s.SOCIALACCOUNT_PROVIDERS, s.CONTENT_SECURITY_POLICY)"
    ready = {k: v for k, v in os.environ.items() if not k.startswith("OIDC_")} | env
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=ready)


def test_it_is_configured_by_the_environment():
    issuer = "https://login.example.org/realms/x"
    whole = settings_with(OIDC_ISSUER=issuer, OIDC_CLIENT_ID="us", OIDC_CLIENT_SECRET="s", OIDC_NAME="House")
    assert "'server_url': 'https://login.example.org/realms/x'" in whole.stdout
    assert "'https://login.example.org'" in whole.stdout.split("form-action")[1]
    half = settings_with(OIDC_ISSUER=issuer, OIDC_CLIENT_ID="us")
    assert "OIDC_CLIENT_SECRET is not" in half.stderr
    assert settings_with().stdout.startswith("{} ")
