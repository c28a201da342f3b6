"""An annotator's profile, and the gallery of what is compared."""

import html
import re
from datetime import timedelta

import pytest
from django.utils import timezone

from annotation import profiles, services
from annotation.services.quality import refresh_quality
from tests.annotation.conftest import page_client
from tests.annotation.factories import add_annotators, add_texts, judge, make_project

pytestmark = pytest.mark.django_db


@pytest.fixture
def project():
    project = make_project()
    add_texts(project, 4, needed=2)
    return project


def address(project, user) -> str:
    return f"/projects/{project.pk}/quality/annotators/{user.pk}/"


def test_own_profile_and_that_of_others(project):
    """An annotator sees their own, without others' words and without sources; a manager sees all of it."""
    anna, ben = add_annotators(project, 2)
    for _ in range(4):
        judge(anna, project, 0)
    judge(ben, project, 1)
    refresh_quality(now=timezone.now())
    own = page_client(anna).get(address(project, anna))
    assert "How you judge" in own.text
    assert ": 4, on the busiest day 4" in own.text
    assert "secret-model" not in own.text
    assert ben.username not in own.text
    assert page_client(anna).get(address(project, ben)).status_code == 403
    all_of_it = page_client(project.created_by).get(address(project, anna)).text
    assert "Prefers secret-model-0" in all_of_it
    assert "Where others said something else" in all_of_it
    assert "How you judge" in page_client(anna).get(f"/projects/{project.pk}/").text


def test_nothing_judged_yet(project):
    (anna,) = add_annotators(project, 1)
    assert "You have judged nothing here yet" in page_client(anna).get(address(project, anna)).text
    assert page_client(project.created_by).get(address(project, anna)).status_code == 404


def test_days(project):
    """Two today and one three days ago: bars of 60 and 30 of 60, in their places of sixty days."""
    (anna,) = add_annotators(project, 1)
    given = [judge(anna, project) for _ in range(3)]
    type(given[0]).objects.filter(pk=given[0].pk).update(created_at=timezone.now() - timedelta(days=3))
    found = profiles.days_of(project, anna.pk, today=timezone.localdate())
    assert (found["most"], found["total"]) == (2, 3)
    assert [(bar["x"], bar["height"], bar["n"]) for bar in found["bars"]] == [
        ("560.0", "30.0", 1),
        ("590.0", "60.0", 2),
    ]


def test_tastes_by_hand(project):
    """Anna prefers the first source twice, the second once and finds one pair equal: 2.5 and 1.5 of 4."""
    (anna,) = add_annotators(project, 1)
    for choice in (0, 0, 1, "tie"):
        lease = services.next_lease(project=project, user=anna, now=timezone.now())
        presented = lease.order.index(choice) if isinstance(choice, int) else choice
        judge(anna, project, presented)
    summary = {"leaderboard": {"rows": [{"source": "secret-model-0", "won": 1, "tied": 2, "lost": 1}]}}
    first, second = profiles.tastes(project, anna.pk, summary)
    assert (first["source"], first["own"]["value"], first["own"]["n"]) == ("secret-model-0", 2.5 / 4, 4)
    assert (second["own"]["value"], second["all"]) == (1.5 / 4, None)
    assert first["all"]["value"] == 0.5


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", {"Answer 0.0", "Answer 0.1", "Answer 1.0", "Answer 1.1"}),
        ("source=secret-model-0", {"Answer 0.0", "Answer 1.0"}),
        ("source=secret-model-0&outcome=won", {"Answer 0.0"}),
        ("source=secret-model-1&outcome=lost", {"Answer 0.1"}),
        ("source=secret-model-0&outcome=tied", {"Answer 1.0"}),
        ("source=nothing", set()),
        ("preferred=100", {"Answer 0.0"}),
        ("preferred=50&source=secret-model-1", set()),
        ("preferred=1&source=secret-model-0", {"Answer 0.0"}),
        ("since=2999-01-01", set()),
        ("until=2999-01-01&source=secret-model-1", {"Answer 0.1", "Answer 1.1"}),
    ],
)
def test_gallery(query, shown):
    project = make_project()
    add_texts(project, 2)
    (anna,) = add_annotators(project, 1)
    for choice in (0, "tie"):
        lease = services.next_lease(project=project, user=anna, now=timezone.now())
        judge(anna, project, lease.order.index(choice) if isinstance(choice, int) else choice)
    page = page_client(project.created_by).get(f"/projects/{project.pk}/data/?view=gallery&{query}").text
    texts = {f"Answer {number}.{side}" for number in range(2) for side in range(2)}
    assert {text for text in texts if f">{text}<" in page} == shown


def test_of_two_answers_by_one_source_the_gallery_shows_which_is_meant():
    project = make_project()
    candidates = [{"text": text, "source": "twice"} for text in ("The winner", "The loser")]
    services.add_comparisons(project=project, groups=[{"prompt": "Which?", "candidates": candidates}])
    (anna,) = add_annotators(project, 1)
    lease = services.next_lease(project=project, user=anna, now=timezone.now())
    judge(anna, project, lease.order.index(0))
    client = page_client(project.created_by)
    for query, winner, loser in (
        ("", True, True),
        ("&outcome=won", True, False),
        ("&outcome=lost", False, True),
    ):
        page = client.get(f"/projects/{project.pk}/data/?view=gallery&source=twice{query}").text
        assert ("The winner" in page, "The loser" in page) == (winner, loser)


def test_the_leaderboard_leads_to_the_gallery():
    """Of a source, and of what it won, tied and lost; a name with signs in it too."""
    project = make_project()
    for candidate in ("m&m 2/3?", "other"):
        groups = [
            {
                "prompt": "Which?",
                "candidates": [{"text": f"By {one}", "source": one} for one in (candidate, "third")],
            }
        ]
        services.add_comparisons(project=project, groups=groups)
    (anna,) = add_annotators(project, 1)
    for choice in (0, "tie"):
        lease = services.next_lease(project=project, user=anna, now=timezone.now())
        judge(anna, project, lease.order.index(choice) if isinstance(choice, int) else choice)
    refresh_quality(now=timezone.now())
    client = page_client(project.created_by)
    board = client.get(f"/projects/{project.pk}/leaderboard/").text
    links = [html.unescape(one) for one in re.findall(r'<a href="([^"]*view=gallery[^"]*)"', board)]
    assert len(links) == 3 + 4  # three sources; what was won, lost, and tied twice
    for link in links:
        found = client.get(link).text
        assert 'class="gallery"' in found, link
        assert ("By m&amp;m 2/3?" in found) == ("m%26m" in link)


def test_the_gallery_hides_what_its_reader_is_to_judge(project, django_assert_max_num_queries):
    manager = project.created_by
    lease = services.next_lease(project=project, user=manager, now=timezone.now())
    client = page_client(manager)
    with django_assert_max_num_queries(16):
        page = client.get(f"/projects/{project.pk}/data/?view=gallery").text
    assert page.count("shown once you have judged it") == 2
    assert page.count("secret-model-0") == 3
    assert lease.comparison.prompt in page
