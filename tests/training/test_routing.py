"""Who is asked, people or a judge: by hand, and with a planted judge that is bad at one subject."""

import numpy as np
import pytest
from django.utils import timezone

from annotation.errors import Conflict, Invalid
from annotation.models import Comparison
from annotation.services import add_suggestions
from tests.annotation.factories import add_annotators, add_texts, judge, make_project
from tests.training.factories import ended
from training import designs, routing, services
from training.acquisition import Floats


@pytest.mark.system("s001-067")
def test_a_budget_goes_to_the_largest_gains() -> None:
    """Worths 2, −1 and 0 of three tags, and a comparison of each: a budget of one goes to the first, a larger
    one to it alone, since nobody else gains. Of all mixes within the budget these are the best: by trying.
    """
    tags, worth = np.eye(3), np.array([2.0, -1.0, 0.0])
    gains = tags @ worth
    assert routing.route(gains, budget=1) == [0]
    assert routing.route(gains, budget=3) == [0]
    gains = np.array([0.5, 2.0, -1.0, 0.7])
    found = routing.route(gains, budget=2)
    mixes = [[at for at in range(4) if number >> at & 1] for number in range(16)]
    best = max((mix for mix in mixes if len(mix) <= 2), key=lambda mix: gains[mix].sum())
    assert found == [1, 3]
    assert sorted(found) == best
    assert routing.route(gains) == [1, 3, 0]


@pytest.mark.system("s001-067")
def test_regression_finds_a_planted_worth() -> None:
    """Scores 0.6 + 0.3 a − 0.1 b of mixes, a and b the shares of people's answers by tag, and noise of 0.01:
    the standard error of a coefficient is about 0.01 / (0.17 √400) = 0.003. A tag that nobody has is worth 0.
    """
    rng = np.random.default_rng(0)
    shares = np.column_stack([rng.uniform(0, 0.6, size=(400, 2)), np.zeros(400)])
    scores = 0.6 + shares @ [0.3, -0.1, 0.0] + 0.01 * rng.normal(size=400)
    assert routing.worth_of_tags(shares, scores) == pytest.approx([0.3, -0.1, 0.0], abs=0.015)


def test_mixes_have_all_budgets() -> None:
    drawn = routing.draw_mixes(10, count=2000, rng=np.random.default_rng(0))
    assert set(drawn.sum(axis=1)) == set(range(11))
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)


def test_some_are_asked_anyway() -> None:
    """A tenth of what people answer: after every nine that were routed, one of the others."""
    found = routing.with_doubled(range(18), range(100, 110), share=0.1, seed=0)
    assert [at for at, one in enumerate(found) if one >= 100] == [9, 19]
    assert len(set(found)) == 20
    assert routing.with_doubled([1, 2], [3], share=0.0, seed=0) == [1, 2]
    assert len(routing.with_doubled([1, 2], [3], share=0.5, seed=0)) == 3


def planted(rng: np.random.Generator, size: int) -> tuple[list[Floats], Floats, Floats]:
    """Groups (2, 6); what is true of each, and what the judge says: in one subject of four it prefers by
    another feature. The last feature tells the subject.
    """
    groups = rng.normal(size=(size, 2, 6))
    subject = rng.integers(4, size=size)
    groups[:, :, 5] = 6.0 * (subject == 0)[:, None]
    gaps = groups[:, 0] - groups[:, 1]
    true, wrong = gaps[:, 0] + gaps[:, 1], 2 * gaps[:, 2] - 2 * gaps[:, 0]
    judge = np.where(subject == 0, wrong, true)
    return list(groups), (true > 0).astype(float), (judge > 0).astype(float)


@pytest.mark.system("s001-067")
def test_the_same_budget_teaches_more_where_the_judge_is_bad() -> None:
    """300 comparisons that both have answered, 800 that the judge has, and 160 answers of people to give: a
    reward from the routed mix agrees more with held-out people than one from people at random places.
    """
    gains = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        groups, people, judge = planted(rng, 2600)
        tags = routing.tags_of(groups[:1100], np.zeros(1100), seed=seed)
        deltas = np.array([group[0] - group[1] for group in groups])
        known = routing.Known(deltas[:300], people[:300], judge[:300], tags[:300])
        found = tags[300:] @ routing.learn_worth(known, seed=seed)
        routed = np.isin(np.arange(800), routing.route(found, budget=160))
        random = rng.permutation(800) < 160
        right = []
        for mix in (routed, random):
            targets = np.where(mix, people[300:1100], judge[300:1100])
            theta = designs.fit(deltas[300:1100], targets, 1.0).mean
            right.append(((deltas[1100:] @ theta > 0) == (people[1100:] > 0.5)).mean())
        gains.append(right[0] - right[1])
    error = np.std(gains, ddof=1) / len(gains) ** 0.5
    assert np.mean(gains) > 0.02
    assert np.mean(gains) > 4 * error


@pytest.fixture
def asked(manager, db):
    project = make_project(by=manager, labels_per_comparison=1)
    add_texts(project, 60)
    return project


def scored(project):
    """A scoring with two features; the judge has answered everything, and people the first forty."""
    rng = np.random.default_rng(0)
    numbers = list(Comparison.objects.filter(project=project).order_by("rank").values_list("pk", flat=True))
    run = services.create_scoring(by=project.created_by, project=project, reward=[{"rule": "words"}])
    rows = [{"scores": [0.1, 0.0], "features": rng.normal(size=(2, 2)).tolist()} for _ in numbers]
    said = [{"comparison": number, "answer": {"choice": at % 2}} for at, number in enumerate(numbers)]
    add_suggestions(project=project, model="judge", suggestions=said, now=timezone.now())
    return ended(run, rows, name="scores.jsonl"), numbers


@pytest.mark.system("s001-067")
def test_people_are_asked_where_a_judge_was_wrong(asked, as_manager):
    """Nobody knows yet what people are worth; after forty answers the queue is routed within its budget."""
    run, numbers = scored(asked)
    with pytest.raises(Conflict, match="have both answered 0 pairs"):
        services.prioritise(run=run, by="worth")
    annotator = add_annotators(asked, 1)[0]
    for _ in range(40):
        judge(annotator, asked)
    body = {"by": "worth", "budget": 5, "double_share": 0.2}
    reply = as_manager.post(f"/api/v1/runs/{run.pk}/priorities/", body, format="json")
    assert reply.status_code == 200
    counts = reply.json()
    assert counts["first"] <= 5
    assert counts["first"] + counts["last"] == 20
    first = Comparison.objects.filter(project=asked, priority__gt=0, open_slots__gt=0)
    assert first.count() == counts["first"]
    assert set(first.values_list("pk", flat=True)) <= set(numbers[40:])
    with pytest.raises(Invalid, match="worth"):
        services.prioritise(run=run, by="last_layer", budget=5)
