"""The quality pages and the leaderboard over HTTP: what they say, to whom, with how many queries."""

import pytest
from django.utils import timezone

from annotation import services
from annotation.services import quality
from tests.annotation import factories
from tests.annotation.quality.rows import fits_of, judge, summary_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def judged(manager):
    """Two people, two comparisons, one agreement: 50 %."""
    project = factories.make_project(by=manager, labels_per_comparison=2)
    one, two = factories.add_annotators(project, 2)
    factories.add_texts(project, 2)
    for person, answers in ((one, ("tie", "tie")), (two, ("tie", "both_bad"))):
        for answer in answers:
            factories.judge(person, project, answer)
    return project, one, two


def text(client, address):
    reply = client.get(address)
    assert reply.status_code == 200
    return reply.content.decode()


def test_quality_page(manager_page, judged):
    project, one, _ = judged
    summary_of(project)
    body = text(manager_page, f"/projects/{project.pk}/quality/")
    assert "50 %" in body
    assert one.username in body
    assert "Nobody wins 100 % of the time: a tie, or both bad (51–100 %, 4 judgements)." in body
    part = text(manager_page, f"/projects/{project.pk}/quality/agreement/")
    assert "50 %" in part
    assert "2 comparisons" in part


def test_before_anything_is_counted(manager_page, judged):
    """Judgements that wait are announced; nothing is counted by looking."""
    project, _, _ = judged
    assert "being counted" in text(manager_page, f"/projects/{project.pk}/quality/")
    assert "Counting" in text(manager_page, f"/projects/{project.pk}/quality/agreement/")
    assert "being counted" in text(manager_page, f"/projects/{project.pk}/leaderboard/")


def test_without_judgements(manager_page, project):
    quality.refresh_quality(now=timezone.now())
    assert "not known yet" in text(manager_page, f"/projects/{project.pk}/quality/")
    assert "nothing to compare yet" in text(manager_page, f"/projects/{project.pk}/leaderboard/")


def test_annotators_last_disagreements_side_by_side(manager_page, judged):
    project, one, two = judged
    fits_of(project)
    body = text(manager_page, f"/projects/{project.pk}/quality/annotators/{one.pk}/")
    assert body.count("<article") == 1
    assert "Answer 1.0" in body
    assert "Answer 1.1" in body
    assert "both bad" in body
    assert two.username in body
    sums, _title, side_by_side = body.partition("Where others said something else")
    assert "Prefers secret-model-0" in sums  # as a leaderboard names them: of no candidate in particular
    assert "secret-model" not in side_by_side  # whoever looks may still judge
    assert manager_page.get(f"/projects/{project.pk}/quality/annotators/{10**6}/").status_code == 404


def test_leaderboard_page(manager_page, manager):
    """Source 1 wins nine of ten."""
    project = factories.make_project(by=manager)
    (user,) = factories.add_annotators(project, 1)
    for index, comparison in enumerate(factories.add_texts(project, 10)):
        judge(comparison, user, 1 if index else 0)
    summary_of(project)
    body = text(manager_page, f"/projects/{project.pk}/leaderboard/")
    assert body.index("secret-model-1") < body.index("secret-model-0")
    assert "90 %" in body
    assert "three times as long" in text(manager_page, f"/projects/{project.pk}/leaderboard/?by_length=1")


def test_few_queries_however_many_people(manager_page, manager, django_assert_max_num_queries):
    project = factories.make_project(by=manager, labels_per_comparison=12)
    people = factories.add_annotators(project, 12)
    for comparison in factories.add_texts(project, 30):
        for user in people:
            judge(comparison, user, (comparison.pk + user.pk) % 3 % 2)
    fits_of(project)
    with django_assert_max_num_queries(14):
        assert people[-1].username in text(manager_page, f"/projects/{project.pk}/quality/")


def test_undone_slips_are_left_out(manager_page, manager):
    """Five agree on everything; somebody slips once and takes it back after the fit."""
    project = factories.make_project(by=manager, labels_per_comparison=6)
    people = factories.add_annotators(project, 6)
    comparisons = factories.add_texts(project, 30)
    for number, comparison in enumerate(comparisons):
        for user in people:
            judge(comparison, user, number % 2)
    slip = comparisons[4].judgements.get(annotator=people[0])
    slip.choice = 1
    slip.save()
    (found,) = fits_of(project)["flipped"]
    assert (found["judgement"], found["said"], found["consensus"]) == (slip.pk, 1, 0)
    assert "Probably slips" in text(manager_page, f"/projects/{project.pk}/quality/")
    slip.undone_at = timezone.now()
    slip.save()
    services.mark_stale([slip.comparison_id])
    assert "Probably slips" not in text(manager_page, f"/projects/{project.pk}/quality/")
