"""Certain comparisons are judged by more people, or by fewer."""

import pytest

from annotation import services
from annotation.errors import Conflict, Invalid
from annotation.models import Comparison, Member
from annotation.services.disputes import disputed_among
from tests.annotation import factories
from tests.annotation.test_queue import answer, take

pytestmark = pytest.mark.django_db


def slots(comparison: Comparison) -> tuple[int, int]:
    comparison.refresh_from_db()
    return comparison.needed, comparison.open_slots


def test_more_people_judge_what_matters(project, annotator):
    """Everybody who had passed it comes back to it, and nobody gets it twice."""
    first, second = factories.add_texts(project, 2)
    (other,) = factories.add_annotators(project, 1)
    for _number in range(2):
        factories.judge(annotator, project)
    assert take(project, other) is None
    assert services.set_overlap(project=project, comparisons=[first.pk, second.pk], labels=2) == 2
    assert services.set_overlap(project=project, comparisons=[first.pk], labels=2) == 0
    assert [slots(first), slots(second)] == [(2, 1), (2, 1)]
    assert take(project, annotator) is None
    lease = take(project, other)
    assert lease.comparison == first
    answer(lease, other)
    assert slots(first) == (2, 0)
    assert services.progress(project=project, user=other, now=lease.created_at)["wanted"] == 4


def test_fewer_never_take_away_what_is_given_or_in_hand(manager, annotator):
    project = factories.make_project(by=manager, labels_per_comparison=5)
    services.add_member(project=project, username=annotator.username, role="annotator", by=manager)
    (comparison,) = factories.add_texts(project, 1)
    (other,) = factories.add_annotators(project, 1)
    factories.judge(annotator, project)
    held = take(project, other)
    services.set_overlap(project=project, comparisons=[comparison.pk], labels=1)
    assert slots(comparison) == (2, 0)
    answer(held, other)
    assert slots(comparison) == (2, 0)


def test_slots_that_wait_for_a_group_stay(manager):
    project = factories.make_project(by=manager, labels_per_comparison=3)
    services.save_group(project=project, name="experts", reserved_labels=2)
    (comparison,) = factories.add_texts(project, 1)
    services.set_overlap(project=project, comparisons=[comparison.pk], labels=1)
    assert slots(comparison) == (2, 2)


def test_a_disagreement_waits_for_the_new_judge(manager):
    project = factories.make_project(by=manager, labels_per_comparison=2)
    (comparison,) = factories.add_texts(project, 1)
    for user, said in zip(factories.add_annotators(project, 2), (0, 1), strict=True):
        lease = take(project, user)
        answer(lease, user, choice=lease.order.index(said))
    assert disputed_among([comparison.pk]) == {comparison.pk}
    services.set_overlap(project=project, comparisons=[comparison.pk], labels=3)
    assert disputed_among([comparison.pk]) == set()


def test_what_cannot_be(project):
    (comparison,) = factories.add_texts(project, 1)
    (elsewhere,) = factories.add_texts(factories.make_project(), 1)
    with pytest.raises(Invalid, match="between 1 and 1000"):
        services.set_overlap(project=project, comparisons=[comparison.pk], labels=0)
    with pytest.raises(Invalid, match=f"There is no comparison {elsewhere.pk}"):
        services.set_overlap(project=project, comparisons=[comparison.pk, elsewhere.pk], labels=2)
    Comparison.objects.filter(pk=comparison.pk).update(needed=0, open_slots=0)
    with pytest.raises(Conflict, match="known answer"):
        services.set_overlap(project=project, comparisons=[comparison.pk], labels=2)


def test_frontiers_stay_where_nothing_opened(project, annotator):
    first, _second = factories.add_texts(project, 2)
    factories.judge(annotator, project)
    take(project, annotator)
    before = Member.objects.get(user=annotator).frontier
    services.set_overlap(project=project, comparisons=[first.pk], labels=1)
    assert Member.objects.get(user=annotator).frontier == before > 0


def test_over_the_api_and_on_the_page(as_manager, manager_page, project):
    first, second = factories.add_texts(project, 2)
    body = {"comparisons": [first.pk], "labels": 4}
    reply = as_manager.post(f"/api/v1/projects/{project.pk}/overlap/", body)
    assert (reply.status_code, reply.json()) == (200, {"changed": 1})
    assert (
        as_manager.post(f"/api/v1/projects/{project.pk}/overlap/", {**body, "labels": 0}).status_code == 400
    )
    page = f"/projects/{project.pk}/data/{second.pk}/"
    assert 'name="labels" value="1"' in manager_page.get(page).content.decode()
    manager_page.post(f"{page}overlap/", {"labels": "3"})
    assert [slots(first), slots(second)] == [(4, 4), (3, 3)]
    refused = manager_page.post(f"{page}overlap/", {"labels": "x"}, follow=True).content.decode()
    assert "Enter a whole number." in refused
    assert slots(second) == (3, 3)
