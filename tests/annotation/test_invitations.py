"""Invitations: one person, once, within a week, as long as whoever invites may."""

from datetime import timedelta

import pytest
from django.utils import timezone

from annotation import services
from annotation.errors import Conflict, NotAllowed, NotFound
from annotation.models import Invitation, Member, User
from tests.annotation import factories
from tests.annotation.conftest import page_client

pytestmark = pytest.mark.django_db
NOW = timezone.now()
PASSWORD = "correct horse battery"


@pytest.fixture
def invited(project, manager):
    """The secret of an invitation as a reviewer."""
    return services.invite(project=project, role="reviewer", by=manager, now=NOW)[1]


def test_the_link_is_shown_once_and_not_kept(manager_page, project):
    body = manager_page.post(
        f"/projects/{project.pk}/invitations/", {"invite-role": "annotator", "invite-note": "Nora"}
    ).content.decode()
    link = body.split('<code class="secret">')[1].split("</code>")[0]
    assert link.startswith("http://testserver/invitations/")
    secret = link.rstrip("/").rsplit("/", 1)[1]
    assert secret not in str(Invitation.objects.values())
    again = manager_page.get(f"/projects/{project.pk}/members/").content.decode()
    assert "Nora" in again
    assert secret not in again


def test_a_new_account(client, project, invited):
    address = f"/invitations/{invited}/"
    assert "reviewer" in client.get(address).content.decode()
    short = client.post(address, {"username": "nora", "password": "short"})
    assert "at least 10 characters" in short.content.decode()
    assert not User.objects.filter(username="nora").exists()
    response = client.post(address, {"username": "nora", "password": PASSWORD})
    assert (response.status_code, response.url) == (302, f"/projects/{project.pk}/")
    nora = User.objects.get(username="nora")
    assert (nora.role, Member.objects.get(user=nora).role) == ("annotator", "reviewer")
    assert client.session["_auth_user_id"] == str(nora.pk)
    client.logout()
    assert client.get(address).status_code == 404
    assert client.post(address, {"username": "otto", "password": PASSWORD}).status_code == 404
    assert not User.objects.filter(username="otto").exists()


def test_an_account_that_is_there(project, invited, outsider):
    client = page_client(outsider)
    assert "Join as otto" in client.get(f"/invitations/{invited}/").content.decode()
    client.post(f"/invitations/{invited}/")
    assert Member.objects.get(user=outsider, project=project).role == "reviewer"
    assert Invitation.objects.get().used_by == outsider


def test_members_keep_their_role_and_the_invitation(project, invited, manager):
    with pytest.raises(Conflict, match="already"):
        services.accept_invitation(secret=invited, user=manager, now=NOW)
    assert Member.objects.get(user=manager).role == "owner"
    services.find_invitation(secret=invited, now=NOW)


@pytest.mark.parametrize("end", ["time", "revoked", "inviter gone", "inviter demoted"])
def test_invitations_end(project, manager, outsider, annotator, end):
    services.add_member(project=project, username="anna", role="manager", by=manager)
    invitation, secret = services.invite(project=project, role="annotator", by=annotator, now=NOW)
    if end == "revoked":
        services.revoke_invitation(invitation=invitation)
    if end == "inviter gone":
        services.remove_member(project=project, user=annotator, by=manager)
    if end == "inviter demoted":
        services.add_member(project=project, username="anna", role="viewer", by=manager)
    later = NOW + (timedelta(days=7) if end == "time" else timedelta(0))
    with pytest.raises(NotFound):
        services.accept_invitation(secret=secret, user=outsider, now=later)
    assert not Member.objects.filter(user=outsider).exists()


def test_only_owners_invite_owners(project, manager, annotator):
    services.add_member(project=project, username="anna", role="manager", by=manager)
    with pytest.raises(NotAllowed):
        services.invite(project=project, role="owner", by=annotator, now=NOW)
    services.invite(project=project, role="owner", by=manager, now=NOW)


def test_over_the_api(as_manager, as_outsider, project, manager):
    url = f"/api/v1/projects/{project.pk}/invitations/"
    made = as_manager.post(url, {"role": "viewer", "note": "Vera"}).json()
    secret = made["link"].rstrip("/").rsplit("/", 1)[1]
    assert services.find_invitation(secret=secret, now=NOW).role == "viewer"
    (listed,) = as_manager.get(url).json()
    assert (listed["note"], listed["link"]) == ("Vera", None)
    assert as_outsider.delete(f"/api/v1/invitations/{made['id']}/").status_code == 404
    assert as_manager.delete(f"/api/v1/invitations/{made['id']}/").status_code == 204
    with pytest.raises(NotFound):
        services.find_invitation(secret=secret, now=NOW)


def test_there_is_no_registration(client):
    """Nothing but an invitation makes an account: no address for it, and no page offers one."""
    for path in ("/sign-up/", "/signup/", "/register/", "/accounts/signup/", "/account/signup/"):
        assert client.post(path, {"username": "eve", "password": PASSWORD}).status_code == 404, path
    assert client.get("/invitations/guessed/").status_code == 404
    client.post("/invitations/guessed/", {"username": "eve", "password": PASSWORD})
    assert not User.objects.exists()


def test_two_at_once_use_it_once(project, manager, invited):
    users = [factories.make_user(), factories.make_user()]
    services.accept_invitation(secret=invited, user=users[0], now=NOW)
    with pytest.raises(NotFound):
        services.accept_invitation(secret=invited, user=users[1], now=NOW)
