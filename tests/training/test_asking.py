"""The queue in the order of what answers would teach."""

import re

import pytest

from annotation.errors import Conflict, Invalid
from annotation.models import Comparison, Project, QueueStrategy
from annotation.services import use_strategy
from tests.annotation.conftest import page_client
from tests.annotation.factories import add_annotators, add_texts, judge, make_project
from tests.training.factories import ended
from training import acquisition, designs, services
from training.models import Checkpoint
from training.views.words import criteria_of

pytestmark = pytest.mark.django_db
# Three members' margins between the two candidates of each comparison: all sure, a little unsure, one who
# contradicts two, and everybody differs.
MARGINS = [[2.0, 2.0, 2.0], [0.0, 0.1, -0.1], [0.0, 0.0, 1.0], [2.5, -2.5, 0.0]]


@pytest.fixture
def asked(manager) -> Project:
    project = make_project(by=manager, labels_per_comparison=1)
    add_texts(project, len(MARGINS))
    use_strategy(project=project, strategy=QueueStrategy.PRIORITY)
    return project


def scoring(project, *, is_ensemble=True, margins=MARGINS):
    run = services.create_scoring(by=project.created_by, project=project, reward=[{"rule": "words"}])
    several = {"disagreement": [0.0, 0.0]} if is_ensemble else {}
    rows = [{"scores": [0, 0], "outputs": [own, [0.0] * len(own)], **several} for own in margins]
    return ended(run, rows, name="scores.jsonl")


def met(project) -> list[int]:
    """The comparisons in the order in which people get them, by their place in the import."""
    numbers = list(Comparison.objects.filter(project=project).order_by("rank").values_list("pk", flat=True))
    annotator = add_annotators(project, 1)[0]
    return [numbers.index(judge(annotator, project).comparison_id) for _ in numbers]


def test_the_queue_asks_first_what_members_differ_about(asked, as_manager):
    run = scoring(asked)
    reply = as_manager.post(f"/api/v1/runs/{run.pk}/priorities/", {"by": "information"}, format="json")
    assert (reply.status_code, reply.json()) == (200, {"first": 4, "last": 0, "without": 0})
    assert met(asked) == [3, 2, 1, 0]


def test_the_page_of_a_scoring_asks_by_what(asked):
    """It offers what the scoring can answer, and the first of it is the usual way."""
    run, page = scoring(asked), page_client(asked.created_by)
    shown = page.get(run.get_absolute_url()).content.decode()
    offered = re.findall(r'<option value="(\w+)">', shown)
    assert offered == [*acquisition.CRITERIA]
    assert page.post(f"/runs/{run.pk}/priorities/", {"by": "information"}).status_code == 302
    assert met(asked) == [3, 2, 1, 0]
    run.config |= {"features": True}
    assert set(criteria_of(run)) == set(designs.BY_FEATURES)


def test_a_criterion_that_there_is_not_is_named(asked):
    run, page = scoring(asked), page_client(asked.created_by)
    shown = page.post(f"/runs/{run.pk}/priorities/", {"by": "luck"}, follow=True).content.decode()
    assert "must be one of batch_information, " in shown


@pytest.mark.system("s004-061")
def test_what_two_draws_agree_about_is_asked_last(asked):
    """E|d - d'| of the four: 0, .133, .667, 3.333; with a threshold of .5 two are worth a question."""
    counts = services.prioritise(run=scoring(asked), by="uncertainty", at_least=0.5)
    assert counts == {"first": 2, "last": 2, "without": 0}
    assert met(asked) == [3, 2, 0, 1]


def test_only_open_comparisons_are_put_in_order(asked):
    run = scoring(asked, margins=[*MARGINS[:3], [None, None, None]])
    judge(add_annotators(asked, 1)[0], asked)
    assert services.prioritise(run=run) == {"first": 2, "last": 0, "without": 1}


def test_one_opinion_tells_nothing_about_doubt(asked):
    run = scoring(asked, is_ensemble=False)
    with pytest.raises(Conflict, match="one opinion"):
        services.prioritise(run=run)
    with pytest.raises(Invalid, match="batch_information"):
        services.prioritise(run=run, by="luck")
    assert set(Comparison.objects.values_list("priority", flat=True)) == {0}
    page = page_client(asked.created_by).post(f"/runs/{run.pk}/priorities/", follow=True)
    assert "knows of one opinion only" in page.content.decode()


def with_features(project):
    """A scoring with two features: the answers of the third pair differ in the second, the others' in the
    first."""
    run = services.create_scoring(by=project.created_by, project=project, reward=[{"rule": "words"}])
    sides = [[1.0, 0.0], [1.1, 0.0], [0.0, 1.0], [0.9, 0.0]]
    rows = [{"scores": [0, 0], "features": [side, [0.0, 0.0]]} for side in sides]
    return ended(run, rows, name="scores.jsonl")


@pytest.mark.system("s000-085")
def test_a_design_needs_no_answers(asked, as_manager):
    """One difference, then the axis that it left; what was asked already counts."""
    run = with_features(asked)
    reply = as_manager.post(f"/api/v1/runs/{run.pk}/priorities/", {"by": "design"}, format="json")
    assert (reply.status_code, reply.json()) == (200, {"first": 4, "last": 0, "without": 0})
    assert sorted(met(asked)[:2]) == [1, 2]
    assert services.prioritise(run=run, by="design") == {"first": 0, "last": 0, "without": 0}


def test_the_order_follows_new_answers(asked):
    """Scored once; after an answer about one feature the other is open, without another run."""
    run = with_features(asked)
    judge(add_annotators(asked, 1)[0], asked)
    assert services.prioritise(run=run, by="last_layer") == {"first": 3, "last": 0, "without": 0}
    numbers = list(Comparison.objects.order_by("rank").values_list("pk", flat=True))
    assert judge(add_annotators(asked, 1)[0], asked).comparison_id == numbers[2]
    run.config = {"features": 2}
    run.save(update_fields=["config"])
    page = page_client(asked.created_by).post(f"/runs/{run.pk}/priorities/", follow=True)
    assert "2 comparisons are in the new order." in page.content.decode()
    with pytest.raises(Invalid, match="ensemble"):
        services.prioritise(run=run, by="design", at_least=0.5)
    with pytest.raises(Conflict, match="kept no features"):
        services.prioritise(run=scoring(asked), by="last_layer")


@pytest.mark.system("s001-039")
def test_what_resembles_an_error_is_verified_next(asked):
    """The reward gives what a person chose of the first pair .0067 or .9933: wrong, it asks about all three
    others; right, about the one that is most alike."""
    run = services.create_scoring(by=asked.created_by, project=asked, reward=[{"rule": "words"}])
    sides = [[1.0, 0.0], [-1.0, 0.0], [0.9, 0.1], [-1.0, -0.5]]
    person = judge(add_annotators(asked, 1)[0], asked).choice
    own = [5.0, 0.0] if person == 0 else [0.0, 5.0]
    for scores, count in ((own, 1), (own[::-1], 3)):
        rows = [{"scores": scores, "features": [side, side]} for side in sides]
        Checkpoint.objects.filter(run=run).delete()
        ended(run, rows, name="scores.jsonl")
        found = services.prioritise(run=run, by="errors")
        assert found == {"first": count, "last": 3 - count, "without": 0}
    numbers = list(Comparison.objects.order_by("rank").values_list("pk", flat=True))
    assert judge(add_annotators(asked, 1)[0], asked).comparison_id == numbers[2]


def test_the_page_says_when_the_queue_follows_another_order(asked):
    use_strategy(project=asked, strategy=QueueStrategy.ORDER)
    page = page_client(asked.created_by).post(f"/runs/{scoring(asked).pk}/priorities/", follow=True)
    assert "4 comparisons are in the new order. The queue does not follow it" in page.content.decode()
    assert met(asked) == [0, 1, 2, 3]
