"""Withdrawing from a project, and handing one over."""

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.utils import timezone

from annotation import services
from annotation.errors import Blocked
from annotation.models import (
    AuditEntry,
    Comparison,
    Consent,
    ExportJob,
    Judgement,
    Lease,
    Member,
    Webhook,
    WebhookDelivery,
)
from annotation.services.counting import count_judgements, read_counts
from annotation.services.groups import judged_groups
from tests.annotation import factories
from tests.annotation.test_queue import answer, take

pytestmark = pytest.mark.django_db
NOW = timezone.now()


def said(project) -> list[tuple[str, str]]:
    """(prompt, annotator) of all that an export or a dataset would hold at this moment."""
    groups = judged_groups(project=project, before=timezone.now(), filters={})
    return [(group["prompt"], one["annotator"]) for group in groups for one in group["judgements"]]


@pytest.fixture
def judged(project, annotator):
    """Two comparisons judged by anna and by one other, with a third in anna's hands."""
    services.update_project(project=project, labels_per_comparison=2)
    factories.add_texts(project, 3)
    (other,) = factories.add_annotators(project, 1)
    for _ in range(2):
        answer(take(project, annotator), annotator)
        answer(take(project, other), other)
    take(project, annotator)
    return other


def test_withdrawing_ends_the_work_and_keeps_what_was_said(project, annotator, judged, annotator_page):
    before = said(project)
    page = annotator_page.post(f"/projects/{project.pk}/withdraw/", {"judgements": "keep"}, follow=True)
    assert "2 judgements of yours are kept" in page.content.decode()
    assert said(project) == before
    assert Lease.objects.filter(annotator=annotator, state="open").count() == 0
    with pytest.raises(Blocked, match="withdrawn"):
        take(project, annotator)
    mine = Judgement.objects.filter(annotator=annotator).first()
    with pytest.raises(Blocked, match="withdrawn"):
        services.undo_judgement(judgement_id=mine.pk, annotator=annotator, now=NOW)
    assert annotator_page.get(f"/projects/{project.pk}/judge/").headers["Location"].endswith("/withdraw/")
    entry = AuditEntry.objects.filter(subject="member", change="update").latest("pk")
    assert (entry.actor, "withdrawn_at" in entry.after) == (annotator, True)


def test_a_manager_cannot_undo_it_and_the_person_can(project, annotator, judged, annotator_page):
    services.withdraw(project=project, user=annotator, now=NOW)
    services.resume_member(project=project, user=annotator.pk)
    services.add_member(project=project, username="anna", role="reviewer", by=project.created_by)
    with pytest.raises(Blocked):
        take(project, annotator)
    annotator_page.post(f"/projects/{project.pk}/withdraw/", {"again": "1"})
    assert take(project, annotator) is not None


def test_consent_is_asked_for_again(project, annotator, annotator_page):
    factories.add_texts(project, 1)
    text = services.publish_consent_text(project=project, text="We keep it.", by=project.created_by)
    services.give_consent(project=project, user=annotator, version=1, now=NOW)
    services.withdraw(project=project, user=annotator, now=NOW)
    assert Consent.objects.get(text=text).withdrawn_at == NOW
    assert annotator_page.get(f"/projects/{project.pk}/consent/").headers["Location"].endswith("/withdraw/")
    services.take_part_again(project=project, user=annotator)
    with pytest.raises(Blocked, match="read the project's text"):
        take(project, annotator)
    page = annotator_page.get(f"/projects/{project.pk}/consent/").content.decode()
    assert "I agree" in page
    services.give_consent(project=project, user=annotator, version=1, now=NOW)
    assert Consent.objects.get(text=text).withdrawn_at is None
    assert take(project, annotator) is not None


def test_deleting_leaves_nothing_of_what_was_said(
    project, annotator, judged, annotator_page, django_capture_on_commit_callbacks
):
    """Rows, figures, exports, files, webhooks and the audit log; the slots are open for others."""
    job = {"project": project, "format": "trl", "created_by": project.created_by}
    key = default_storage.save("exports/old.jsonl", ContentFile(b"{}"))
    done = ExportJob.objects.create(**job, status="done", storage_key=key)
    hook = Webhook.objects.create(project=project, url="https://example.org/", secret="s")
    told = {"webhook": hook, "event": "judgement.created", "next_at": NOW, "created_at": NOW}
    for name in ("anna", judged.username):
        WebhookDelivery.objects.create(**told, payload={"data": {"annotator": name, "answer": {"choice": 0}}})
    changed = Judgement.objects.filter(annotator=annotator).first()
    Judgement.objects.filter(pk=changed.pk).update(
        choice=1 - changed.choice
    )  # leaves an entry with both answers
    count_judgements()
    with django_capture_on_commit_callbacks(execute=True):
        page = annotator_page.post(f"/projects/{project.pk}/withdraw/", {"judgements": "delete"}, follow=True)
    assert "2 judgements are deleted" in page.content.decode()
    assert "No judgement of yours is kept" in page.content.decode()
    assert {name for _, name in said(project)} == {judged.username}
    assert Comparison.objects.order_by("pk").values_list("open_slots", flat=True)[0] == 1
    count_judgements()
    counted = [key for key, n in read_counts(project).items() if annotator.pk in key[1:]]
    assert counted == []
    done.refresh_from_db()
    assert (done.status, done.storage_key) == ("failed", "")
    assert not default_storage.exists(key)
    assert WebhookDelivery.objects.get().payload["data"]["annotator"] == judged.username
    entries = AuditEntry.objects.filter(subject="judgement", subject_id=changed.pk)
    assert sorted(entries.values_list("change", "before", "after")) == [
        ("delete", None, None),
        ("update", None, None),
    ]
    # Others may fill what is open now, and what she had never comes to her again.
    assert take(project, factories.add_annotators(project, 1)[0]) is not None
    services.take_part_again(project=project, user=annotator)
    assert take(project, annotator).comparison.prompt == "Question 2?"


def test_deleting_after_withdrawing(project, annotator, judged, as_annotator):
    here = f"/api/v1/projects/{project.pk}/withdrawal/"
    assert as_annotator.post(here, {"judgements": "maybe"}).status_code == 400
    assert as_annotator.post(here, {"judgements": "keep"}).json() == {"deleted": 0, "unfinished": False}
    assert as_annotator.get(f"/api/v1/projects/{project.pk}/standing/").json()["blocked"] == "withdrawn"
    assert as_annotator.post(here, {"judgements": "delete"}).json() == {"deleted": 2, "unfinished": False}
    assert as_annotator.post(here, {"judgements": "delete"}).json() == {"deleted": 0, "unfinished": False}
    assert as_annotator.delete(here).status_code == 204
    assert as_annotator.get(f"/api/v1/projects/{project.pk}/standing/").json()["blocked"] is None


def test_deleting_what_was_set_aside_opens_no_slot_twice(project, annotator, judged):
    services.set_aside(project=project, user=annotator.pk, by=project.created_by, reason="haste", now=NOW)
    before = list(Comparison.objects.order_by("pk").values_list("open_slots", flat=True))
    assert services.delete_judgements(project=project, user=annotator).done == 2
    assert list(Comparison.objects.order_by("pk").values_list("open_slots", flat=True)) == before == [1, 1, 1]


def test_handing_over(project, annotator, manager, manager_page):
    here = f"/projects/{project.pk}/members/{annotator.pk}/hand-over/"
    assert "Hand over" in manager_page.get(f"/projects/{project.pk}/members/").content.decode()
    assert "anna, who is annotator now, becomes an owner" in manager_page.get(here).content.decode()
    assert Member.objects.get(project=project, user=manager).role == "owner"  # looking changes nothing
    page = manager_page.post(here, follow=True).content.decode()
    assert "anna owns the project now, and you are a manager." in page
    roles = dict(Member.objects.filter(project=project).values_list("user__username", "role"))
    assert roles == {"anna": "owner", "mona": "manager"}
    entries = AuditEntry.objects.filter(project=project, subject="member", change="update").order_by("pk")
    assert [(entry.actor.username, entry.after["role"]) for entry in entries] == [
        ("mona", "owner"),
        ("mona", "manager"),
    ]
    assert manager_page.post(here).status_code == 403
    assert "Hand over" not in manager_page.get(f"/projects/{project.pk}/members/").content.decode()


def test_handing_over_to_oneself_or_a_stranger(project, manager, outsider, as_manager):
    refused = as_manager.post(f"/api/v1/projects/{project.pk}/members/{manager.pk}/hand-over/")
    assert (refused.status_code, "own this project already" in refused.json()["detail"]) == (409, True)
    assert (
        as_manager.post(f"/api/v1/projects/{project.pk}/members/{outsider.pk}/hand-over/").status_code == 404
    )
    assert Member.objects.get(project=project, user=manager).role == "owner"
