"""The figures of the quality pages over the API."""

import pytest
from django.utils import timezone

from annotation.models import Judgement
from tests.annotation import factories
from tests.annotation.quality.rows import fits_of, judge

pytestmark = pytest.mark.django_db


def get(client, project, part=""):
    reply = client.get(f"/api/v1/projects/{project.pk}/quality/{part}")
    assert reply.status_code == 200
    return reply.json()


@pytest.fixture
def judged(manager):
    """Anna 0 0 1 1, Ben 0 0 1 0: three of four the same."""
    project = factories.make_project(by=manager, labels_per_comparison=2)
    anna, ben = factories.add_annotators(project, 2)
    for comparison, first, second in zip(
        factories.add_texts(project, 4), (0, 0, 1, 1), (0, 0, 1, 0), strict=True
    ):
        judge(comparison, anna, first, seconds=10.0)
        judge(comparison, ben, second, seconds=20.0)
    return project, anna, ben


def test_agreement(as_manager, judged):
    """Votes: 5 for 0, 3 for 1, so chance is (20 + 6) / 56; alpha 1 − 7 · 2 / (64 − 34) = 8/15."""
    project, *_ = judged
    fits_of(project)
    body = get(as_manager, project)
    (question,) = body["questions"]
    assert (question["question"], question["title"], question["level"]) == ("choice", "Choice", "nominal")
    assert (question["units"], question["pairs"], body["judgements"]) == (4, 4, 8)
    assert question["raw"]["value"] == 0.75
    assert question["chance"] == pytest.approx(26 / 56)
    assert question["alpha"]["value"] == pytest.approx(8 / 15)
    assert body["position"] == pytest.approx({"value": 5 / 8, "n": 8, "low": 0.306, "high": 0.863}, abs=1e-3)
    assert (body["waiting"], body["as_of"] is not None, body["ties"]["value"]) == (False, True, 0)


def test_annotators(as_manager, judged):
    project, anna, ben = judged
    fits_of(project)
    rows = {row["annotator"]: row for row in get(as_manager, project, "annotators/")["annotators"]}
    assert rows.keys() == {anna.pk, ben.pk}
    assert (rows[anna.pk]["name"], rows[anna.pk]["agreement"]["value"]) == (anna.username, 0.75)
    assert rows[anna.pk]["median_seconds"] == pytest.approx(10, rel=0.026)
    assert rows[ben.pk]["position"]["value"] == 0.75
    assert 0 <= rows[ben.pk]["consensus"]["value"] <= 1
    assert rows[ben.pk]["evidence"] == []


def test_leaderboard(as_manager, judged):
    """Source 0 wins five of eight; two sources' points lie around 1000."""
    project, *_ = judged
    fits_of(project)
    body = get(as_manager, project, "leaderboard/")
    first, second = body["rows"]
    assert (first["source"], first["won"], first["lost"], second["won"]) == ("secret-model-0", 5, 3, 3)
    assert first["points"]["value"] + second["points"]["value"] == pytest.approx(2000)
    assert body["table"] == [[[0, 0, 0], [5, 0, 3]], [[3, 0, 5], [0, 0, 0]]]
    assert body["length_effect"] is None
    assert get(as_manager, project, "leaderboard/?by_length=1")["length_effect"] is not None


def test_slips(as_manager, manager):
    """Six agree on everything but once, where one of them says the opposite of five: the likeliest slip."""
    project = factories.make_project(by=manager, labels_per_comparison=6)
    people = factories.add_annotators(project, 6)
    comparisons = factories.add_texts(project, 8)
    for n, comparison in enumerate(comparisons):
        for who, user in enumerate(people):
            judge(comparison, user, 1 - n % 2 if (n, who) == (5, 2) else n % 2)
    fits_of(project)
    body = get(as_manager, project, "slips/?limit=1")
    (slip,) = body["results"]
    assert (slip["comparison"], slip["annotator"], slip["name"]) == (
        comparisons[5].pk,
        people[2].pk,
        people[2].username,
    )
    assert (slip["about"], slip["said"], slip["consensus"]) == ("choice", 0, 1)
    assert slip["probability"] < 0.05 < 0.95 < slip["consensus_probability"]
    assert (body["count"], body["next"]) == (1, None)
    Judgement.objects.filter(pk=slip["judgement"]).update(undone_at=timezone.now())
    assert get(as_manager, project, "slips/")["count"] == 0


def test_disputed(as_manager, judged):
    """The last comparison alone is one of 0 against 1; a page holds what is asked for."""
    project, *_ = judged
    fits_of(project)
    body = get(as_manager, project, "disputed/?limit=2")
    assert (body["count"], len(body["results"]), body["previous"]) == (4, 2, None)
    first, second = body["results"]
    assert first["comparison"] == project.comparisons.get(rank=4).pk
    assert first["bits"] > second["bits"]
    assert sum(first["chances"].values()) == pytest.approx(1)
    following = get(as_manager, project, "disputed/?limit=2&offset=2")["results"]
    assert len({row["comparison"] for row in (first, second, *following)}) == 4


def test_consensus(as_manager, judged):
    """Of every comparison, also the settled ones; the last is one against one."""
    project, *_ = judged
    assert get(as_manager, project, "consensus/")["results"] == []
    fits_of(project)
    rows = get(as_manager, project, "consensus/")["results"]
    assert [row["comparison"] for row in rows] == [c.pk for c in project.comparisons.order_by("pk")]
    settled, open_one = rows[0]["about"][0], rows[3]["about"][0]
    assert (settled["about"], settled["answer"], settled["judgements"]) == ("choice", 0, 2)
    assert settled["probability"] > open_one["probability"] >= 0.5
    assert settled["bits"] < open_one["bits"] <= 1
    (same,) = [
        row
        for row in get(as_manager, project, "disputed/")["results"]
        if row["comparison"] == rows[3]["comparison"]
    ]
    assert open_one["chances"] == pytest.approx(same["chances"], abs=1e-4)


def test_pairs(as_manager, judged):
    """Three of four the same; by chance 1/2 · 3/4 + 1/2 · 1/4 = 1/2: kappa (3/4 − 1/2) / (1 − 1/2) = 1/2."""
    project, anna, ben = judged
    fits_of(project)
    (pair,) = get(as_manager, project, "pairs/")["results"]
    assert (pair["question"], pair["n"], pair["agreement"]["value"]) == ("choice", 4, 0.75)
    assert {pair["first"], pair["second"]} == {anna.pk, ben.pk}
    assert set(pair["names"]) == {anna.username, ben.username}
    assert pair["kappa"]["value"] == pytest.approx(0.5)


def test_before_anything_is_counted(as_manager, judged):
    project, *_ = judged
    body = get(as_manager, project)
    assert (body["as_of"], body["waiting"], body["questions"]) == (None, True, [])
    assert get(as_manager, project, "annotators/")["annotators"] == []
    assert get(as_manager, project, "leaderboard/")["rows"] == []
    for part in ("slips/", "disputed/", "pairs/"):
        assert get(as_manager, project, part)["results"] == []
