"""Accounts, tokens, links, and what happens after too many wrong passwords."""

import io
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.utils import timezone

from annotation import services
from annotation.errors import Conflict, Invalid, NotAllowed, NotFound, TooMany
from annotation.models import ApiToken, FailedSignIn, Member, User
from annotation.services.accounts import digest_of_token
from tests.annotation import factories

pytestmark = pytest.mark.django_db
NOW = timezone.now()
PASSWORD = "correct horse battery"


def create_user(*arguments):
    out, err = io.StringIO(), io.StringIO()
    call_command("create_user", *arguments, stdout=out, stderr=err)
    return out.getvalue()


def test_create_user_prints_the_token_alone(client):
    printed = create_user("script", "--role", "manager", "--token")
    assert printed.count("\n") == 1
    token = printed.strip()
    assert ApiToken.objects.get().digest == digest_of_token(token)
    assert token not in str(ApiToken.objects.values())
    response = client.get("/api/v1/projects/", headers={"authorization": f"Token {token}"})
    assert response.status_code == 200
    assert User.objects.get(username="script").is_manager


def test_create_user_without_token_prints_nothing():
    assert create_user("anna") == ""
    assert User.objects.get(username="anna").role == "annotator"


@pytest.mark.parametrize("name", ["anna", "two words", "import:anna", ""])
def test_create_user_refuses(name):
    factories.make_user(username="anna")
    with pytest.raises(CommandError, match="username"):
        create_user(name, "--token")
    assert not ApiToken.objects.exists()


def test_create_user_prints_a_link_that_works_once(client):
    printed = create_user("anna", "--link", "http://testserver").strip()
    assert printed.startswith("http://testserver/sign-in/link/?")


def test_weak_passwords_are_refused():
    with pytest.raises(Invalid) as refusal:
        services.create_user(username="anna", role="annotator", password="short")
    assert list(refusal.value.errors) == ["password"]
    with pytest.raises(Invalid) as refusal:
        services.create_user(username="anna", role="king")
    assert list(refusal.value.errors) == ["role"]
    assert not User.objects.exists()


def sign_in(password, username="anna", address="10.0.0.1", now=NOW):
    return services.sign_in(username=username, password=password, address=address, now=now)


def test_sign_in():
    user = services.create_user(username="anna", role="annotator", password=PASSWORD)
    assert sign_in(PASSWORD) == user
    assert sign_in("wrong") is None
    assert sign_in(PASSWORD, username="nobody") is None


def test_too_many_wrong_passwords_of_one_name():
    user = services.create_user(username="anna", role="annotator", password=PASSWORD)
    for n in range(10):
        assert sign_in("wrong", address=f"10.0.0.{n}") is None
    for username in ("anna", "ANNA"):
        with pytest.raises(TooMany):
            sign_in(PASSWORD, username=username, address="10.9.9.9")
    assert sign_in(PASSWORD, now=NOW + timedelta(minutes=16)) == user


def test_too_many_names_from_one_address():
    user = services.create_user(username="anna", role="annotator", password=PASSWORD)
    for n in range(100):
        assert sign_in("wrong", username=f"guess{n}") is None
    with pytest.raises(TooMany):
        sign_in(PASSWORD)
    assert sign_in(PASSWORD, address="10.0.0.2") == user


def test_failures_are_kept_briefly_and_name_nobody():
    sign_in("wrong")
    kept = str(FailedSignIn.objects.values())
    assert "anna" not in kept
    assert "10.0.0.1" not in kept
    sign_in("wrong", username="ben", now=NOW + timedelta(hours=1))
    assert FailedSignIn.objects.filter(created_at__lt=NOW + timedelta(minutes=30)).count() == 0


def test_inactive_users_do_not_sign_in():
    user = services.create_user(username="anna", role="annotator", password=PASSWORD)
    user.is_active = False
    user.save()
    assert sign_in(PASSWORD) is None


# Projects and members


def test_only_managers_create_projects():
    with pytest.raises(NotAllowed):
        factories.make_project(by=factories.make_user("annotator"))


def test_a_changed_template_is_a_new_version(project):
    same = services.update_project(project=project, questions=project.questions, guidelines="Be kind.")
    assert (same.template_version, same.guidelines) == (1, "Be kind.")
    changed = services.update_project(project=project, questions=[{"type": "choice", "tie": False}])
    assert (changed.template_version, changed.questions[0]["tie"]) == (2, False)
    kept = project.template_versions.values_list("version", "questions__0__tie")
    assert list(kept) == [(1, True), (2, False)]
    for changes, field in (({"modality": "image"}, "modality"), ({"labels_per_comparison": 0}, None)):
        with pytest.raises(Invalid) as refusal:
            services.update_project(project=project, **changes)
        assert field is None or list(refusal.value.errors) == [field]


def test_members_come_and_go(project, annotator):
    """Ownership is handed over: a second owner is made, and the first one leaves."""
    services.add_member(project=project, username="anna", role="owner", by=project.created_by)
    services.remove_member(project=project, user=project.created_by, by=annotator)
    for change in (
        lambda: services.remove_member(project=project, user=annotator, by=annotator),
        lambda: services.add_member(project=project, username="anna", role="manager", by=annotator),
    ):
        with pytest.raises(Conflict, match="at least one owner"):
            change()
    assert list(Member.objects.values_list("user__username", "role")) == [("anna", "owner")]
    with pytest.raises(Invalid, match="There is no user"):
        services.add_member(project=project, username="import:kim", role="annotator", by=annotator)


def test_managers_neither_make_nor_touch_owners(project, annotator):
    services.add_member(project=project, username="anna", role="manager", by=project.created_by)
    owner = project.created_by
    for change in (
        lambda: services.add_member(project=project, username="anna", role="owner", by=annotator),
        lambda: services.add_member(project=project, username=owner.username, role="viewer", by=annotator),
        lambda: services.remove_member(project=project, user=owner, by=annotator),
    ):
        with pytest.raises(NotAllowed, match="Only owners"):
            change()
    roles = dict(Member.objects.values_list("user__username", "role"))
    assert roles == {"anna": "manager", owner.username: "owner"}


def test_a_viewer_gives_back_what_they_held(project, annotator):
    from tests.annotation.test_queue import take

    (comparison,) = factories.add_texts(project, 1)
    lease = take(project, annotator)
    services.add_member(project=project, username="anna", role="viewer", by=project.created_by)
    comparison.refresh_from_db()
    assert comparison.open_slots == 1
    for again in (
        lambda: take(project, annotator),
        lambda: services.lease_of(lease_id=lease.pk, annotator=annotator),
    ):
        with pytest.raises((NotAllowed, NotFound)):
            again()


def test_template_without_tie(project, annotator):
    from tests.annotation.test_queue import answer, take

    questions = [{"type": "choice", "tie": False, "both_bad": False, "strength": False}]
    services.update_project(project=project, questions=questions)
    factories.add_texts(project, 1)
    lease = take(project, annotator)
    for choice, strength in (("tie", None), ("both_bad", None), (0, 2)):
        with pytest.raises(Invalid):
            answer(lease, annotator, choice, strength=strength)
    answer(lease, annotator, 0)


# What the database itself refuses

COPY_THE_LEASE = """
    INSERT INTO annotation_lease (id, slot, kind, "order", state, template_version, skip_reason, created_at,
    expires_at, annotator_id, comparison_id) SELECT gen_random_uuid(), slot, kind, "order", state,
    template_version, skip_reason, created_at, expires_at, {other}, comparison_id FROM annotation_lease
"""


@pytest.mark.parametrize(
    ("constraint", "statement"),
    [
        ("lease_slot_once", COPY_THE_LEASE),
        ("comparison_open_slots_within_needed", "UPDATE annotation_comparison SET open_slots = needed + 1"),
        ("open_slots", "UPDATE annotation_comparison SET open_slots = -1"),
        ("comparison_rank_once", "UPDATE annotation_comparison SET rank = 7"),
        ("candidate_text_or_image", "UPDATE annotation_candidate SET text = NULL"),
    ],
)
def test_constraints(project, annotator, constraint, statement):
    from tests.annotation.test_queue import take

    factories.add_texts(project, 2)
    take(project, annotator)
    (other,) = factories.add_annotators(project, 1)
    from django.db import connection

    with pytest.raises(IntegrityError, match=constraint), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement.format(other=other.pk))
