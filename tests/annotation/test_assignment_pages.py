"""The pages about assignment, as managers and annotators use them."""

import pytest

from annotation import services
from annotation.models import AnnotatorGroup, ConsentText, GoldAnswer, Judgement, Member, SetAside
from tests.annotation import factories
from tests.annotation.test_queue import NOW, answer, take

pytestmark = pytest.mark.django_db


def url(project, path=""):
    return f"/projects/{project.pk}/{path}"


def test_settings(project, manager_page):
    page = manager_page.get(url(project, "assignment/"))
    assert page.status_code == 200
    body = {
        "queue_strategy": "fewest",
        "quota": "",
        "daily_cap": "120",
        "gold_rate": "5",
        "repeat_rate": "2.5",
        "repeat_distance": "30",
        "pass_mark": "",
        "test_attempts": "2",
        "skip_reasons": "Not my language\nBoth empty\n",
    }
    assert manager_page.post(url(project, "assignment/"), body).status_code == 302
    project.refresh_from_db()
    assert (project.queue_strategy, project.quota, project.daily_cap) == ("fewest", None, 120)
    assert (project.gold_rate, project.repeat_rate, project.pass_mark) == (0.05, 0.025, None)
    assert project.skip_reasons == ["Not my language", "Both empty"]
    assert not project.review_overrules
    again = manager_page.get(url(project, "assignment/")).context["form"].initial
    assert (again["gold_rate"], again["repeat_rate"]) == ("5", "2.5")
    refused = manager_page.post(url(project, "assignment/"), body | {"pass_mark": "80"})
    assert "The test has no questions yet" in refused.content.decode()


def test_consent(project, manager_page, annotator_page, annotator):
    factories.add_texts(project, 1)
    manager_page.post(url(project, "assignment/consent/"), {"text": "We keep **your answers**."})
    assert ConsentText.objects.get().version == 1
    sent = annotator_page.get(url(project, "judge/"))
    assert (sent.status_code, sent["Location"]) == (302, url(project, "consent/"))
    page = annotator_page.get(url(project, "consent/")).content.decode()
    assert "<strong>your answers</strong>" in page
    annotator_page.post(url(project, "consent/"), {"version": "7"})
    assert Member.objects.get(user=annotator).consented_version == 0
    agreed = annotator_page.post(url(project, "consent/"), {"version": "1"})
    assert agreed["Location"] == url(project, "judge/")
    assert annotator_page.get(url(project, "judge/")).status_code == 200
    assert "You agreed to this on" in annotator_page.get(url(project, "consent/")).content.decode()


def test_why_nothing_comes_is_said(project, annotator_page, annotator):
    factories.add_texts(project, 3)
    services.update_assignment(project=project, daily_cap=0)
    assert "There is more tomorrow" in annotator_page.get(url(project, "judge/")).content.decode()
    services.pause_member(project=project, user=annotator.pk, reason="x", now=NOW)
    page = annotator_page.get(url(project, "judge/"))
    assert page.status_code == 200
    assert "is paused" in page.content.decode()


def test_groups(project, manager_page):
    services.update_project(project=project, labels_per_comparison=2)
    body = {"name": "Deutsch", "attributes": "language = de\nlevel = native", "reserved_labels": "1"}
    assert manager_page.post(url(project, "groups/"), body).status_code == 302
    group = AnnotatorGroup.objects.get()
    assert group.attributes == {"language": "de", "level": "native"}
    assert "language: de" in manager_page.get(url(project, "groups/")).content.decode()
    page = url(project, f"groups/{group.pk}/")
    assert manager_page.get(page).context["form"].initial["attributes"] == "language = de\nlevel = native"
    wrong = manager_page.post(page, body | {"attributes": "native"})
    assert "has no name and value" in wrong.content.decode()
    too_many = manager_page.post(page, body | {"reserved_labels": "3"})
    assert "would reserve 3 judgements, of 2" in too_many.content.decode()
    manager_page.post(url(project, f"groups/{group.pk}/remove/"))
    assert not AnnotatorGroup.objects.exists()


def test_a_member_is_paused_set_aside_and_brought_back(project, manager_page, annotator):
    factories.add_texts(project, 2)
    answer(take(project, annotator), annotator)
    group = services.save_group(project=project, name="de")
    page = url(project, f"members/{annotator.pk}/")
    body = {"group": group.pk, "quota": "9", "daily_cap": ""}
    assert manager_page.post(page, body).status_code == 302
    member = Member.objects.get(user=annotator)
    assert (member.group, member.quota, member.daily_cap) == (group, 9, None)
    assert manager_page.post(page + "pause/", {"pause-reason": ""}).status_code == 400
    manager_page.post(page + "pause/", {"pause-reason": "too fast"})
    assert "too fast" in manager_page.get(page).content.decode()
    assert manager_page.post(page + "set-aside/", {"aside-reason": ""}).status_code == 400
    manager_page.post(page + "set-aside/", {"aside-reason": "always the first"})
    record = SetAside.objects.get()
    assert (record.count, Judgement.objects.standing().count()) == (1, 0)
    manager_page.post(url(project, f"set-aside/{record.pk}/restore/"))
    assert Judgement.objects.standing().count() == 1
    assert "brought back" in manager_page.get(page).content.decode()
    manager_page.post(page + "resume/")
    assert Member.objects.get(user=annotator).paused_at is None


def test_members_of_other_projects_are_not_found(project, manager_page, annotator):
    elsewhere = factories.make_project()
    (stranger,) = factories.add_annotators(elsewhere, 1)
    assert manager_page.get(url(project, f"members/{stranger.pk}/")).status_code == 404
    assert manager_page.get(url(elsewhere, f"members/{stranger.pk}/")).status_code == 404


def test_known_answers(project, manager_page, annotator):
    first, second = factories.add_texts(project, 2)
    lease = take(project, annotator)
    answer(lease, annotator, lease.order.index(1))
    said = Judgement.objects.get()
    body = {"purpose": "qualification", "explanation": "It is true."}
    manager_page.post(url(project, f"data/{first.pk}/gold/"), body | {"answer": f"judgement:{said.pk}"})
    manager_page.post(url(project, f"data/{second.pk}/gold/"), body | {"purpose": "gold", "answer": "tie"})
    known = dict(GoldAnswer.objects.values_list("comparison", "choice"))
    assert known == {first.pk: 1, second.pk: "tie"}
    page = manager_page.get(url(project, "gold/")).content.decode()
    assert "Question 0?" in page
    assert "gold question" in page
    wrong = manager_page.post(url(project, f"data/{first.pk}/gold/"), body | {"answer": "7"})
    assert wrong.status_code == 200
    assert GoldAnswer.objects.get(comparison=first).choice == 1
    manager_page.post(url(project, f"gold/{GoldAnswer.objects.get(comparison=second).pk}/remove/"))
    assert GoldAnswer.objects.count() == 1


def test_skipped(project, manager_page, annotator):
    factories.add_texts(project, 3)
    for reason in ("in Dutch", "in Dutch", ""):
        lease = take(project, annotator)
        services.skip_lease(lease_id=lease.pk, annotator=annotator, reason=reason, now=NOW)
    page = manager_page.get(url(project, "skipped/"))
    assert len(page.context["page"].object_list) == 3
    assert [(one["skip_reason"], one["number"]) for one in page.context["reasons"]] == [
        ("in Dutch", 2),
        ("", 1),
    ]
    some = manager_page.get(url(project, "skipped/?reason=in+Dutch"))
    assert len(some.context["page"].object_list) == 2


@pytest.mark.parametrize("path", ["assignment/", "groups/", "gold/", "skipped/"])
def test_annotators_do_not_manage(project, annotator_page, path):
    assert annotator_page.get(url(project, path)).status_code == 403


@pytest.mark.parametrize("path", ["gold/", "skipped/", "groups/"])
def test_queries_do_not_grow(project, manager_page, annotator, path, django_assert_max_num_queries):
    for comparison in factories.add_texts(project, 8):
        services.set_gold_answer(
            project=project, comparison_id=comparison.pk, by=project.created_by, choice=0
        )
        services.save_group(project=project, name=f"group {comparison.pk}")
    for _ in range(6):
        lease = take(project, annotator)
        services.skip_lease(lease_id=lease.pk, annotator=annotator, now=NOW)
    with django_assert_max_num_queries(10):
        manager_page.get(url(project, path))


@pytest.fixture
def disputed(project):
    """One comparison that two people judged differently."""
    services.update_project(project=project, labels_per_comparison=2)
    (comparison,) = factories.add_texts(project, 1)
    for user, choice in zip(factories.add_annotators(project, 2), (0, 1), strict=True):
        lease = take(project, user)
        answer(lease, user, lease.order.index(choice), strength=2)
    return comparison


@pytest.mark.parametrize("button", ["said", "key"])
def test_review(project, manager_page, disputed, button):
    page = manager_page.get(url(project, "review/"))
    text = page.content.decode()
    assert "1 waits" in text
    assert "Annotator 1" in text
    assert "secret-model" not in text
    item = page.context["item"]
    assert [item["said_html"].count(words) for words in ("A better", "B better")] == [1, 1]
    body = {"lease": item["lease"], "client_id": page.context["client_id"]}
    assert manager_page.post(url(project, "review/"), body).status_code == 302
    assert not Judgement.objects.filter(kind="review").exists()
    manager_page.post(url(project, "review/"), body | {button: "1"})
    decided = Judgement.objects.get(kind="review")
    first = next(one for one in item["judgements"] if one["annotator"] == 1)
    shown = first["choice"] if button == "said" else 0
    assert decided.order.index(decided.choice) == shown
    assert decided.strength == (2 if button == "said" else 3)
    assert "Nobody disagrees" in manager_page.get(url(project, "review/")).content.decode()


def test_annotators_do_not_open_the_review_page(project, annotator_page):
    assert annotator_page.get(url(project, "review/")).status_code == 403
