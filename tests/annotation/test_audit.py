"""Every change to projects, members and judgements is written by the database, and stays as it is written."""

import pytest
from django.db import ProgrammingError, connection, transaction

from annotation import services
from annotation.audit import acting
from annotation.models import AuditEntry, Judgement, Member, Project
from tests.annotation import factories
from tests.annotation.conftest import api_client

pytestmark = pytest.mark.django_db


def entries(project, **wanted):
    found = AuditEntry.objects.filter(project=project, **wanted).order_by("pk")
    return [(one.actor and one.actor.username, one.change, one.before, one.after) for one in found]


def test_a_changed_setting(manager_page, project):
    project.refresh_from_db()
    form = {
        "name": "Replies",
        "questions.0.type": "choice",
        "questions.0.text": "Which?",
        "labels_per_comparison": 2,
        "lease_minutes": 20,
    }
    assert manager_page.post(f"/projects/{project.pk}/settings/", form).status_code == 302
    *_, (who, change, before, after) = entries(project, subject="project")
    assert (who, change, before["name"], after["name"]) == ("mona", "update", "Answers", "Replies")
    assert (before["labels_per_comparison"], after["labels_per_comparison"]) == (1, 2)
    assert "modality" not in after  # only what changed


def test_members_over_the_api(as_manager, project, annotator):
    as_manager.post(f"/api/v1/projects/{project.pk}/members/", {"username": "anna", "role": "reviewer"})
    assert as_manager.delete(f"/api/v1/projects/{project.pk}/members/{annotator.pk}/").status_code == 204
    came, changed, went = entries(project, subject="member")[1:]
    assert (came[1], came[2], came[3]["role"]) == ("insert", None, "annotator")
    assert changed == ("mona", "update", {"role": "annotator"}, {"role": "reviewer"})
    assert (went[0], went[1], went[2]["role"], went[3]) == ("mona", "delete", "reviewer", None)


def test_judging_changes_nothing_that_is_logged(project, annotator, as_annotator):
    """Frontiers and counts move with each answer; only taking it back is a change."""
    factories.add_texts(project, 2)
    before = AuditEntry.objects.count()
    judgement = factories.judge(annotator, project)
    assert AuditEntry.objects.count() == before
    as_annotator.post(f"/api/v1/judgements/{judgement.pk}/undo/")
    ((who, change, old, new),) = entries(project, subject="judgement")
    assert (who, change, old) == ("anna", "update", {"undone_at": None})
    assert set(new) == {"undone_at"}


def test_raw_sql_and_bulk_changes_are_logged_too(project, annotator):
    factories.add_texts(project, 1)
    factories.judge(annotator, project)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE annotation_judgement SET strength = 3")
    Judgement.objects.all().delete()
    changed, gone = entries(project, subject="judgement")
    assert (changed[0], changed[2], changed[3]) == (None, {"strength": None}, {"strength": 3})
    assert (gone[1], gone[2]["strength"], gone[3]) == ("delete", 3, None)


def test_entries_outlive_their_project(project, manager):
    pk = project.pk
    project.delete()
    *_, last = entries(pk, subject="project")
    assert (last[1], last[2]["name"]) == ("delete", "Answers")


@pytest.mark.parametrize(
    "statement", ["UPDATE annotation_auditentry SET actor_id = NULL", "DELETE FROM annotation_auditentry"]
)
def test_entries_cannot_be_changed(project, statement):
    before = list(AuditEntry.objects.values())
    with (
        pytest.raises(ProgrammingError, match="Cannot update or delete"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
    assert list(AuditEntry.objects.values()) == before


@pytest.mark.django_db(transaction=True)
def test_nobody_inherits_the_person_before():
    """The name holds for the transaction of the write, so that the next one on the connection has none."""
    owner = factories.make_user("manager")
    project = factories.make_project(by=owner)
    with acting(lambda: owner.pk):
        Project.objects.filter(pk=project.pk).update(name="one")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE annotation_project SET name = 'two'")
    actors = AuditEntry.objects.filter(subject="project", change="update").order_by("pk")
    assert list(actors.values_list("actor", flat=True)) == [owner.pk, None]


def test_the_page_and_the_api_filter(manager_page, as_manager, project, annotator):
    page, call = f"/projects/{project.pk}/audit/", f"/api/v1/projects/{project.pk}/audit/"
    as_manager.post(f"/api/v1/projects/{project.pk}/members/", {"username": "anna", "role": "viewer"})
    body = manager_page.get(page, {"subject": "member", "actor": "mona"}).content.decode()
    assert "viewer" in body
    assert "Answers" not in body.split("<table")[1]
    rows = as_manager.get(call, {"subject": "member", "change": "update"}).json()["results"]
    assert [(row["actor"], row["after"]) for row in rows] == [("mona", {"role": "viewer"})]
    assert as_manager.get(call, {"until": "2001-01-01"}).json()["results"] == []
    for wrong in ({"actor__password__startswith": "p"}, {"subject": "user"}, {"since": "soon"}):
        assert as_manager.get(call, wrong).status_code == 400


def test_managers_do_not_read_it(project, annotator):
    services.add_member(project=project, username="anna", role="manager", by=project.created_by)
    assert api_client(annotator).get(f"/api/v1/projects/{project.pk}/audit/").status_code == 403
    assert Member.objects.get(project=project, user=annotator).role == "manager"
