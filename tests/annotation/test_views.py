"""The pages over HTTP: who may see what, how many queries, and what the forms do."""

import re

import pytest
from django.db import connection
from django.template.loader import render_to_string
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from annotation import services
from annotation.models import ImportJob, Judgement, Lease, Member, Project, User
from tests.annotation import factories

PASSWORD = "correct horse battery"
MANAGER_PAGES = [
    "settings/",
    "members/",
    "imports/",
    "exports/",
    "data/",
    "quality/",
    "quality/agreement/",
    "leaderboard/",
]
MEMBER_PAGES = ["", "guidelines/", "judge/", "history/"]


# Who may see what


@pytest.mark.parametrize("part", MANAGER_PAGES + MEMBER_PAGES)
def test_strangers_are_sent_to_sign_in(client, project, part):
    address = f"/projects/{project.pk}/{part}"
    response = client.get(address)
    assert (response.status_code, response.url) == (302, f"/sign-in/?next={address}")


@pytest.mark.parametrize("part", MANAGER_PAGES + MEMBER_PAGES)
def test_outsiders_see_nothing(outsider_page, project, part):
    assert outsider_page.get(f"/projects/{project.pk}/{part}").status_code == 404


@pytest.mark.parametrize("part", MANAGER_PAGES)
def test_managers_pages(manager_page, annotator_page, project, part):
    address = f"/projects/{project.pk}/{part}"
    assert manager_page.get(address).status_code == 200
    response = annotator_page.get(address)
    assert response.status_code == 403
    assert "Your role in this project does not allow this" in response.content.decode()


@pytest.mark.parametrize("part", MEMBER_PAGES)
def test_members_pages(manager_page, annotator_page, project, part):
    factories.add_texts(project, 1)
    for client in (manager_page, annotator_page):
        assert client.get(f"/projects/{project.pk}/{part}").status_code == 200


def test_rows_of_other_projects(manager_page, outsider, outsider_page, project):
    """Ids of one project do not open another one's comparisons, imports or pictures."""
    foreign = factories.make_project(by=outsider)
    comparison = factories.add_texts(foreign, 1)[0]
    job = ImportJob.objects.create(project=foreign, format="trl", created_by=outsider)
    assert manager_page.get(f"/projects/{project.pk}/data/{comparison.pk}/").status_code == 404
    assert manager_page.get(f"/projects/{project.pk}/data/{comparison.pk}/0/image/").status_code == 404
    assert manager_page.get(f"/imports/{job.pk}/").status_code == 404
    assert manager_page.get(f"/imports/{job.pk}/rejected.csv").status_code == 404
    assert outsider_page.get(f"/imports/{job.pk}/").status_code == 200


def test_only_posts_change_anything(manager_page, project):
    for name in ("judge_submit", "judge_skip", "judge_undo"):
        assert manager_page.get(reverse(f"annotation:{name}", args=[project.pk])).status_code == 405
    assert manager_page.get("/sign-out/").status_code == 405


def test_strict_policy_on_every_page(manager_page, project):
    factories.add_texts(project, 1)
    for part in MANAGER_PAGES + MEMBER_PAGES:
        response = manager_page.get(f"/projects/{project.pk}/{part}")
        policy = response["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        body = response.content.decode()
        assert not re.search(r"\sstyle=|<style|\son\w+=|<script(?![^>]*(src=|application/json))", body), part


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_error_pages_say_what_to_do(status):
    """They need no request and no database, which may be what failed."""
    page = render_to_string(f"{status}.html")
    assert re.search(r"<h1>\S.*</h1>", page)
    assert 'href="/"' in page


def test_unknown_address(manager_page):
    response = manager_page.get("/nowhere/")
    assert response.status_code == 404
    assert "not a member of its project" in response.content.decode()


# Signing in and out


@pytest.fixture
def member(project):
    user = services.create_user(username="petra", role="annotator", password=PASSWORD)
    services.add_member(project=project, username="petra", role="annotator", by=project.created_by)
    return user


def test_sign_in(client, member):
    response = client.post("/sign-in/", {"username": "petra", "password": PASSWORD, "next": "/projects/new/"})
    assert (response.status_code, response.url) == (302, "/projects/new/")
    assert client.get("/").status_code == 200
    client.post("/sign-out/")
    assert client.get("/").status_code == 302


def test_sign_in_refused(client, member):
    response = client.post("/sign-in/", {"username": "petra", "password": "wrong"})
    assert response.status_code == 200
    assert "do not belong together" in response.content.decode()
    assert "_auth_user_id" not in client.session


def test_sign_in_goes_nowhere_else(client, member):
    values = {"username": "petra", "password": PASSWORD, "next": "https://example.org/"}
    assert client.post("/sign-in/", values).url == reverse("annotation:home")


def test_too_many_passwords(client, member):
    for _ in range(10):
        client.post("/sign-in/", {"username": "petra", "password": "wrong"})
    response = client.post("/sign-in/", {"username": "petra", "password": PASSWORD})
    assert response.status_code == 429
    assert "Too many wrong passwords" in response.content.decode()


def test_link_works_once(client, member):
    link = services.sign_in_link(user=member, base_url="http://testserver")
    assert client.get(link).status_code == 302
    assert client.get("/").status_code == 200
    again = Client().get(link)
    assert again.status_code == 403
    assert "no longer works" in again.content.decode()


def test_forms_need_their_token(member):
    strict = Client(enforce_csrf_checks=True)
    response = strict.post("/sign-in/", {"username": "petra", "password": PASSWORD})
    assert response.status_code == 403
    assert "too old" in response.content.decode()


# Judging without scripts


def form_of(response) -> dict[str, str]:
    body = response.content.decode()
    found = re.search(r'name="lease" value="(.*?)".*?name="client_id" value="(.*?)"', body, re.S)
    assert found is not None
    return {"lease": found[1], "client_id": found[2]}


def test_judge_by_form(annotator_page, annotator, project):
    factories.add_texts(project, 2)
    address = reverse("annotation:judge", args=[project.pk])
    form = form_of(annotator_page.get(address))
    submit = reverse("annotation:judge_submit", args=[project.pk])
    for _ in range(2):  # the second is a repeat, as from a doubled click
        assert annotator_page.post(submit, form | {"key": "6"}).url == address
    judgement = Judgement.objects.get()
    assert (judgement.order.index(judgement.choice), judgement.strength) == (1, 2)
    undo = reverse("annotation:judge_undo", args=[project.pk])
    annotator_page.post(undo, {"judgement": judgement.pk})
    judgement.refresh_from_db()
    assert judgement.undone_at is not None
    assert form_of(annotator_page.get(address))["lease"] != form["lease"]


def test_form_without_answer(annotator_page, project):
    factories.add_texts(project, 1)
    form = form_of(annotator_page.get(reverse("annotation:judge", args=[project.pk])))
    submit = reverse("annotation:judge_submit", args=[project.pk])
    response = annotator_page.post(submit, form | {"key": "9"}, follow=True)
    assert "Nothing was stored" in response.content.decode()
    assert not Judgement.objects.exists()


def test_skip_by_form(annotator_page, project):
    factories.add_texts(project, 2)
    form = form_of(annotator_page.get(reverse("annotation:judge", args=[project.pk])))
    skip = reverse("annotation:judge_skip", args=[project.pk])
    annotator_page.post(skip, {"lease": form["lease"], "reason": "unclear"})
    assert Lease.objects.get(pk=form["lease"]).skip_reason == "unclear"


@pytest.mark.parametrize("lease", ["", "nonsense", "0d0f7e5a-44b1-4c5f-9b0e-3d6f3f0f8a11"])
def test_unknown_lease(annotator_page, project, lease):
    for name in ("judge_submit", "judge_skip"):
        response = annotator_page.post(
            reverse(f"annotation:{name}", args=[project.pk]), {"lease": lease, "key": "1"}
        )
        assert response.status_code == 404


def test_somebody_elses_lease_and_judgement(annotator, manager_page, project):
    factories.add_texts(project, 2)
    judgement = factories.judge(annotator, project)
    lease = Lease.objects.create(
        comparison=judgement.comparison.project.comparisons.last(),
        annotator=annotator,
        slot=0,
        order=[0, 1],
        created_at=judgement.created_at,
        expires_at=judgement.created_at,
    )
    submit = reverse("annotation:judge_submit", args=[project.pk])
    assert manager_page.post(submit, {"lease": lease.pk, "key": "1"}).status_code == 404
    undo = reverse("annotation:judge_undo", args=[project.pk])
    assert manager_page.post(undo, {"judgement": judgement.pk}).status_code == 404
    assert manager_page.post(undo, {"judgement": "x"}).status_code == 404


def test_page_names_no_source(annotator_page, annotator, project):
    factories.add_texts(project, 2)
    factories.judge(annotator, project)
    for part in MEMBER_PAGES:
        assert "secret-model" not in annotator_page.get(f"/projects/{project.pk}/{part}").content.decode()


def test_nothing_left(annotator_page, project):
    response = annotator_page.get(reverse("annotation:judge", args=[project.pk]))
    assert "Nothing is left for you here" in response.content.decode()


# Constant numbers of queries


def test_judging_page_queries(annotator_page, annotator, project, django_assert_max_num_queries):
    factories.add_texts(project, 30)
    for _ in range(5):
        factories.judge(annotator, project)
    with django_assert_max_num_queries(22):
        annotator_page.get(reverse("annotation:judge", args=[project.pk]))


@pytest.mark.parametrize("part", ["data/", "members/", "quality/", ""])
def test_queries_do_not_grow(manager_page, project, part):
    address = f"/projects/{project.pk}/{part}"

    def count() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert manager_page.get(address).status_code == 200
        return len(queries)

    people = factories.add_annotators(project, 2)
    factories.add_texts(project, 3)
    factories.judge(people[0], project)
    few = count()
    services.add_comparisons(project=project, groups=factories.text_groups(20, start=9))
    for person in [*people, *factories.add_annotators(project, 4)]:
        factories.judge(person, project)
    assert count() == few


def test_home_queries(manager, manager_page, django_assert_num_queries):
    for _ in range(3):
        factories.add_texts(factories.make_project(by=manager), 2)
    with django_assert_num_queries(3):  # session, user, projects
        assert manager_page.get("/").content.decode().count("of 2 judgements") == 3


# Managing


def test_new_project(manager, manager_page, annotator_page):
    values = {
        "name": "Poems",
        "modality": "text",
        "guidelines": "**Rhyme**",
        "questions.0.type": "choice",
        "questions.0.text": "Which is the better poem?",
        "questions.0.tie": "1",
    }
    values |= {"labels_per_comparison": "3", "lease_minutes": "7"}
    assert annotator_page.get("/projects/new/").status_code == 403
    response = manager_page.post("/projects/new/", values)
    project = Project.objects.get(name="Poems")
    assert response.url == f"/projects/{project.pk}/imports/"
    assert (project.labels_per_comparison, project.lease_minutes) == (3, 7)
    question = project.questions[0]
    assert question["text"] == "Which is the better poem?"
    assert (question["strength"], question["tie"], question["both_bad"]) == (False, True, False)


def test_settings(manager_page, project):
    address = f"/projects/{project.pk}/settings/"
    values = {"name": "Better", "labels_per_comparison": "2", "lease_minutes": "20"}
    values |= {"questions.0.type": "choice", "questions.0.text": "Which?"}
    assert manager_page.post(address, values | {"name": ""}).status_code == 200
    assert manager_page.post(address, values).url == address
    project.refresh_from_db()
    assert (project.name, project.template_version) == ("Better", 2)


def test_preview_is_sanitised(manager_page):
    response = manager_page.post("/preview/", {"guidelines": "**x** <script>alert(1)</script>"})
    assert response.content.decode() == "<p><strong>x</strong> &lt;script&gt;alert(1)&lt;/script&gt;</p>\n"


def test_add_member(manager_page, project, outsider):
    form = {"username": "otto", "role": "viewer"}
    assert (
        "otto</strong> is viewer now"
        in manager_page.post(f"/projects/{project.pk}/members/", form).content.decode()
    )
    assert Member.objects.get(project=project, user=outsider).role == "viewer"


def test_add_unknown_member(manager_page, project):
    body = manager_page.post(f"/projects/{project.pk}/members/", {"username": "nobody", "role": "annotator"})
    assert "There is no user" in body.content.decode()
    assert not User.objects.filter(username="nobody").exists()


def test_links_into_managers_accounts_are_refused(manager_page, manager, outsider, annotator, project):
    """Adding a manager as a member must not give a way into their account."""
    services.add_member(project=project, username=outsider.username, role="annotator", by=manager)
    for user, status in ((outsider, 403), (annotator, 200)):
        assert manager_page.post(f"/projects/{project.pk}/members/{user.pk}/link/").status_code == status


def test_remove_member(manager_page, annotator, manager, project):
    manager_page.post(f"/projects/{project.pk}/members/{annotator.pk}/remove/")
    assert not project.members.filter(user=annotator).exists()
    response = manager_page.post(f"/projects/{project.pk}/members/{manager.pk}/remove/", follow=True)
    assert "keeps at least one owner" in response.content.decode()
