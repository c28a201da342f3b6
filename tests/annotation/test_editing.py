"""The data pages and their API: search, pages by position, and changes by hand that leave a trace."""

import uuid

import pytest
from django.utils import timezone

from annotation import services
from annotation.data_browsing import PAGE, comparisons_of, page_of
from annotation.errors import Conflict, Invalid
from annotation.models import Comparison, Judgement, JudgementChange, Lease, QualityCount
from annotation.services.counting import count_again, count_judgements
from tests.annotation import factories

pytestmark = pytest.mark.django_db


def found(project, **filters):
    services.read_prompts()
    return [row.prompt for row in comparisons_of(project, filters).order_by("rank")]


def test_search_reads_prompts_and_answers_of_texts_and_conversations(project):
    groups = factories.text_groups(2)
    groups[0]["prompt"] = [{"role": "user", "content": "Where do otters sleep?"}]
    groups[1]["candidates"][0]["text"] = "Otters hold hands."
    services.add_comparisons(project=project, groups=groups)
    assert len(found(project, q="otters")) == 2
    assert found(project, q='"otters hold"') == ["Question 1?"]
    assert found(project, q="otters -hold") == [groups[0]["prompt"]]
    assert found(project, q="role") == []  # the form of a conversation is not what it says
    services.edit_comparison(comparison=Comparison.objects.get(prompt="Question 1?"), prompt="A badger?")
    assert found(project, q="badger") == ["A badger?"]


def test_filters(project, annotator):
    services.update_project(project=project, labels_per_comparison=2)
    factories.add_texts(project, 3)
    other = factories.add_annotators(project, 1)[0]
    factories.judge(annotator, project, "tie")
    factories.judge(annotator, project, "tie")
    factories.judge(other, project, "both_bad")
    assert found(project, state="split") == ["Question 0?"]
    assert found(project, state="judged") == ["Question 0?"]
    assert found(project, state="unjudged") == ["Question 2?"]
    assert found(project, state="waiting") == ["Question 1?", "Question 2?"]
    assert found(project, by=other.username) == ["Question 0?"]
    assert found(project, against="anna") == ["Question 0?"]
    assert found(project, source="secret-model-1") == ["Question 0?", "Question 1?", "Question 2?"]


def test_pages_by_position(project):
    factories.add_texts(project, 2 * PAGE + 5)
    rows = comparisons_of(project, {})
    first = page_of(rows, "rank")
    second = page_of(rows, "rank", after=first.after)
    last = page_of(rows, "rank", after=second.after)
    assert [len(page.rows) for page in (first, second, last)] == [PAGE, PAGE, 5]
    assert (first.before, last.after) == (None, None)
    assert page_of(rows, "rank", before=last.before) == second
    assert page_of(rows, "rank", before=second.before) == first
    newest = page_of(rows, "pk", descending=True)
    assert [row.prompt for row in newest.rows[:2]] == [
        f"Question {2 * PAGE + 4}?",
        f"Question {2 * PAGE + 3}?",
    ]
    assert page_of(rows, "pk", descending=True, after=newest.after).rows[0].prompt == f"Question {PAGE + 4}?"


def test_editing_ends_when_somebody_has_it_open_or_judged_it(project, annotator):
    (comparison,) = factories.add_texts(project, 1)
    old_key = comparison.content_key
    edited = services.edit_comparison(comparison=comparison, prompt="New?", texts=["One", None])
    assert (edited.prompt, edited.content_key == old_key) == ("New?", False)
    assert [item.text for item in edited.candidates.order_by("index")] == ["One", "Answer 0.1"]
    with pytest.raises(Invalid, match="all the same"):
        services.edit_comparison(comparison=comparison, texts=["same", "same"])
    with pytest.raises(Invalid, match="is empty"):
        services.edit_comparison(comparison=comparison, prompt=" ")
    services.next_lease(project=project, user=annotator, now=timezone.now())
    with pytest.raises(Conflict, match="open"):
        services.edit_comparison(comparison=comparison, prompt="Newer?")
    factories.judge(annotator, project)
    with pytest.raises(Conflict, match="judged"):
        services.edit_comparison(comparison=comparison, prompt="Newer?")
    assert services.edit_comparison(comparison=comparison, held_out=True).held_out


def test_a_corrected_judgement_keeps_what_it_said(project, annotator, manager):
    factories.add_texts(project, 1)
    judgement = factories.judge(annotator, project, "tie")
    now = timezone.now()
    corrected = services.correct_judgement(
        judgement=judgement, answer={"choice": 1, "strength": 3}, by=manager, reason="a slip", now=now
    )
    assert (corrected.choice, corrected.strength) == (1, 3)
    change = JudgementChange.objects.get()
    assert (change.before["choice"], change.reason, change.changed_by) == ("tie", "a slip", manager)
    with pytest.raises(Invalid):
        services.correct_judgement(judgement=judgement, answer={"choice": 7}, by=manager, reason="x", now=now)
    with pytest.raises(Invalid, match="why"):
        services.correct_judgement(judgement=judgement, answer={"choice": 0}, by=manager, reason=" ", now=now)
    assert Judgement.objects.get().choice == 1


def test_a_judgement_set_aside_opens_its_slot(project, annotator, manager):
    (comparison,) = factories.add_texts(project, 1)
    judgement = factories.judge(annotator, project)
    now = timezone.now()
    services.set_aside_judgement(judgement=judgement, by=manager, reason="spam", now=now)
    comparison.refresh_from_db()
    assert (comparison.open_slots, Judgement.objects.standing().count()) == (1, 0)
    (other,) = factories.add_annotators(project, 1)
    factories.judge(other, project)
    comparison.refresh_from_db()
    assert (comparison.open_slots, Judgement.objects.standing().count()) == (0, 1)
    with pytest.raises(Conflict):
        services.set_aside_judgement(judgement=judgement, by=manager, reason="spam", now=now)


def test_deleting_a_comparison_takes_all_of_it(project, annotator):
    kept, gone = factories.add_texts(project, 2)
    factories.judge(annotator, project)
    lease = services.next_lease(project=project, user=annotator, now=timezone.now())
    services.submit_judgement(
        lease_id=lease.pk, annotator=annotator, client_id=uuid.uuid4(), choice=0, now=timezone.now()
    )
    services.delete_comparison(comparison=gone)
    assert list(Comparison.objects.all()) == [kept]
    assert (Judgement.objects.count(), Lease.objects.count()) == (1, 1)


def test_pages(manager_page, annotator, annotator_page, project):
    judged, free = factories.add_texts(project, 2)
    judgement = factories.judge(annotator, project, "tie")
    address = f"/projects/{project.pk}/data/"
    assert "Question 1" in manager_page.get(address).content.decode()
    body = manager_page.get(f"{address}judgements/?by=anna").content.decode()
    assert "Question 0" in body
    assert "Question 0" not in manager_page.get(f"{address}judgements/?by=nobody").content.decode()
    edit = f"{address}{free.pk}/edit/"
    form = {"prompt": "Changed?\r\nYes", "candidate_0": "Answer 1.0", "candidate_1": "Other"}
    assert manager_page.post(edit, form).status_code == 302
    free.refresh_from_db()
    assert (free.prompt, free.candidates.get(index=1).text) == ("Changed?\nYes", "Other")
    refused = manager_page.post(f"{address}{judged.pk}/edit/", form)
    assert (refused.status_code, "Somebody has judged" in refused.content.decode()) == (400, True)
    correct = f"{address}judgements/{judgement.pk}/"
    assert "&quot;tie&quot;" in manager_page.get(correct).content.decode()
    wrong = manager_page.post(correct, {"answer": '{"choice": 9}', "reason": "x"})
    assert wrong.status_code == 400
    assert manager_page.post(correct, {"answer": '{"choice": 0}', "reason": "a slip"}).status_code == 302
    assert "Corrected by mona" in manager_page.get(f"{address}{judged.pk}/").content.decode()
    assert manager_page.post(correct, {"aside": "1", "reason": "spam"}).status_code == 302
    assert "set aside" in manager_page.get(f"{address}{judged.pk}/").content.decode()
    assert manager_page.post(f"{address}{free.pk}/delete/").status_code == 302
    assert not Comparison.objects.filter(pk=free.pk).exists()
    assert annotator_page.get(correct).status_code == 403


def test_api(as_manager, annotator, project):
    factories.add_texts(project, 2)
    services.read_prompts()
    judgement = factories.judge(annotator, project, "tie")
    rows = as_manager.get(f"/api/v1/projects/{project.pk}/comparisons/?q=1").json()["results"]
    assert [row["prompt"] for row in rows] == ["Question 1?"]
    assert as_manager.get(f"/api/v1/projects/{project.pk}/comparisons/?state=odd").status_code == 400
    one = f"/api/v1/comparisons/{rows[0]['id']}/"
    assert as_manager.patch(one, {"texts": ["One", None]}).json()["candidates"][0]["text"] == "One"
    assert as_manager.patch(one, {"colour": "red"}).status_code == 400
    assert as_manager.delete(one).status_code == 204
    (shown,) = as_manager.get(f"/api/v1/projects/{project.pk}/judgements/?by=anna").json()["results"]
    assert (shown["annotator"], shown["answer"]) == ("anna", {"choice": "tie"})
    own = f"/api/v1/judgements/{judgement.pk}/"
    body = {"answer": {"choice": 1}, "reason": "a slip"}
    assert as_manager.patch(own, body).json()["answer"] == {"choice": 1}
    assert as_manager.patch(own, {"answer": {"choice": 5}, "reason": "x"}).status_code == 400
    assert as_manager.post(f"{own}set-aside/", {"reason": "spam"}).json()["set_aside_at"] is not None
    assert as_manager.post(f"{own}set-aside/", {"reason": "spam"}).status_code == 409


def test_sources_stay_hidden_from_who_is_to_judge(as_manager, project, manager):
    (comparison,) = factories.add_texts(project, 1)
    services.next_lease(project=project, user=manager, now=timezone.now())
    (row,) = as_manager.get(f"/api/v1/projects/{project.pk}/comparisons/").json()["results"]
    assert [item["source"] for item in row["candidates"]] == ["", ""]
    shown = as_manager.get(f"/api/v1/comparisons/{comparison.pk}/").json()
    assert [item["source"] for item in shown["candidates"]] == ["", ""]


def test_changes_by_hand_are_counted_again(project, annotator, manager):
    """What is counted after each change is what counting from the start gives."""
    factories.add_texts(project, 3)
    judged = [factories.judge(annotator, project, 0) for _ in range(3)]
    count_judgements()
    steps = [
        lambda: services.correct_judgement(
            judgement=judged[0], answer={"choice": "tie"}, by=manager, reason="r", now=timezone.now()
        ),
        lambda: services.set_aside_judgement(judgement=judged[1], by=manager, reason="r", now=timezone.now()),
        lambda: services.delete_comparison(comparison=judged[2].comparison),
    ]

    def counted():
        return {(row.topic, row.key): row.n for row in QualityCount.objects.filter(project=project) if row.n}

    for step in steps:
        before = counted()
        step()
        count_judgements()
        now = counted()
        assert now != before
        count_again(project)
        assert counted() == now
