"""Counting as judgements arrive: by hand, the same as from the start, and nothing missed."""

import random
import threading
from collections import Counter

import numpy as np
import pytest
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation import services
from annotation.models import Judgement, QualityCursor, QualityReport, QualityStale
from annotation.quality.counts import contributions, poisson_weights, time_quantiles
from annotation.quality.votes import Unit, Vote, main_question, pairwise, read_values
from annotation.services import counting
from tests.annotation import factories
from tests.annotation.quality.rows import judge, summary_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def people(project):
    return factories.add_annotators(project, 3)


def sums_of(project):
    """Everything counted of a project, rounded as sums of thirds need it."""
    counts = {key: round(n, 6) for key, n in counting.read_counts(project).items()}
    results = {key: row.tolist() for key, row in counting.read_results(project).items() if np.any(row)}
    return counts, results


def test_contributions_by_hand():
    """Anna and Ben take the first candidate, Cleo the second; Anna judged it a second time and differed."""
    votes = (
        Vote(1, 10, "regular", {"choice": 0, "strength": -2}, position=1, seconds=4.0),
        Vote(2, 11, "regular", {"choice": 0, "strength": -1}, position=0, seconds=20.0),
        Vote(3, 12, "regular", {"choice": 1, "strength": 3}),
        Vote(4, 10, "repeat", {"choice": 1}),
        Vote(5, 12, "gold", {"choice": 1}),
        Vote(6, 13, "judge", {"choice": 0}),
    )
    unit = Unit("choice", ("m", "n"), (30, 10), votes, gold={"choice": 0})
    found = contributions(unit)
    bins = {20.0: round(20 * np.log(20)), 4.0: round(20 * np.log(4))}
    assert found == Counter(
        {
            ("pattern", "choice", 0, 2, 1, 1): 1,
            ("pattern", "strength", -2, 1, -1, 1, 3, 1): 1,
            ("pair", "choice", 10, 11, 0, 0): 1,
            ("pair", "choice", 10, 12, 0, 1): 1,
            ("pair", "choice", 11, 12, 0, 1): 1,
            ("pair", "strength", 10, 11, -2, -1): 1,
            ("pair", "strength", 10, 12, -2, 3): 1,
            ("pair", "strength", 11, 12, -1, 3): 1,
            **{
                ("annotator", who, name): 1
                for who in (10, 11, 12)
                for name in ("compared", "judgements", "choices")
            },
            ("annotator", 10, "agreed"): 0.5,
            ("annotator", 11, "agreed"): 0.5,
            ("annotator", 12, "agreed"): 0,
            ("annotator", 10, "longer"): 1,
            ("annotator", 11, "longer"): 1,
            ("annotator", 12, "shorter"): 1,
            ("annotator", 10, "position:2:1"): 1,
            ("annotator", 11, "position:2:0"): 1,
            ("annotator", 10, "repeats"): 1,
            ("annotator", 10, "repeats_same"): 0,
            ("annotator", 12, "gold"): 1,
            ("annotator", 12, "gold_right"): 0,
            ("time", 10, bins[4.0]): 1,
            ("time", 11, bins[20.0]): 1,
        }
    )


def test_values_of_every_question():
    answers = {
        "aspects": {"clarity": {"choice": 1, "strength": 2}},
        "ranking": [[2], [0, 1]],
        "ratings": [{"help": 4}, {"help": 2}, {}],
        "thumbs": [1, None, 0],
        "rubric": [{"cites": True}, {"cites": False}, {}],
        "tags": ["wrong"],
        "turns": [{"turn": 1, "choice": 0}, {"turn": 3, "choice": "tie"}],
        "critique": "too long",
    }
    found = read_values(choice=None, strength=None, answers=answers, candidates=3, tags=["wrong", "short"])
    assert found == {
        "aspects.clarity": 1,
        "ranking#0-1": 0,
        "ranking#0-2": 1,
        "ranking#1-2": 1,
        "ratings.help#0": 4,
        "ratings.help#1": 2,
        "thumbs#0": 1,
        "thumbs#2": 0,
        "rubric.cites#0": 1,
        "rubric.cites#1": 0,
        "tags.wrong": 1,
        "tags.short": 0,
        "turns#1": 0,
        "turns#3": "tie",
    }
    assert list(pairwise(found, 3)) == [(0, 1, 0.5), (0, 2, 0.0), (1, 2, 0.0)]
    assert main_question({"context", "tags", "ratings", "aspects"}) == "ratings"


@pytest.mark.parametrize(
    ("values", "pairs"),
    [
        ({"choice": 1}, [(0, 1, 0.0), (1, 2, 1.0)]),
        ({"choice": "both_bad"}, [(0, 1, 0.5), (0, 2, 0.5), (1, 2, 0.5)]),
        ({"ratings.a#0": 5, "ratings.b#0": 1, "ratings.a#1": 4, "ratings.b#1": 4}, [(0, 1, 0.0)]),
        ({"thumbs#0": 1, "thumbs#2": 0}, [(0, 2, 1.0)]),
        ({"tags.x": 1}, []),
    ],
)
def test_pairs_that_a_judgement_implies(values, pairs):
    assert list(pairwise(values, 3)) == pairs


def test_only_standing_judgements_count(project, people):
    (comparison,) = factories.add_texts(project, 1)
    judge(comparison, people[0], 0)
    judge(comparison, people[1], 0)
    judge(comparison, people[2], 1, undone_at=timezone.now())
    judge(comparison, people[2], 1, kind="gold")
    (question,) = summary_of(project)["questions"]
    assert (question["pairs"], question["raw"]["value"], question["alpha"]) == (1, 1.0, None)


def test_times_within_half_a_bin():
    bins = Counter(round(20 * np.log(seconds)) for seconds in (4, 6, 8, 30))
    median, slow = time_quantiles(bins, [0.5, 0.9])
    assert median == pytest.approx(6, rel=0.026)
    assert slow == pytest.approx(30, rel=0.026)
    assert time_quantiles({}, [0.5]) is None


ACTIONS = st.lists(
    st.tuples(
        st.integers(0, 5), st.integers(0, 2), st.sampled_from([0, 1, "tie", "both_bad"]), st.integers(0, 9)
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ACTIONS)
def test_step_by_step_equals_from_the_start(project, people, actions):
    """Judgements, answers taken back and given anew, counted at odd moments."""
    comparisons = factories.add_texts(project, 6)
    for place, who, choice, then in actions:
        standing = Judgement.objects.standing().filter(comparison=comparisons[place], annotator=people[who])
        if (known := standing.first()) is not None:
            known.undone_at = timezone.now()
            known.save()
            services.mark_stale([known.comparison_id])
        if known is None or then % 2:
            judge(comparisons[place], people[who], choice, order=[0, 1] if then % 3 else [1, 0], seconds=then)
        if then < 4:
            counting.count_judgements()
    counting.count_judgements()
    step_by_step = sums_of(project)
    counting.count_again(project)
    assert sums_of(project) == step_by_step
    counting.count_judgements()
    assert sums_of(project) == step_by_step


def test_undo_is_counted(project, people):
    factories.add_texts(project, 2)
    first = factories.judge(people[0], project)
    factories.judge(people[1], project)
    assert summary_of(project)["judgements"] == 2
    services.undo_judgement(judgement_id=first.pk, annotator=people[0], now=timezone.now())
    assert summary_of(project)["judgements"] == 1
    assert not QualityStale.objects.exists()


def test_counting_twice_changes_nothing(project, people):
    for comparison in factories.add_texts(project, 3):
        for user in people:
            judge(comparison, user, comparison.pk % 2)
    summary_of(project)
    before = sums_of(project)
    services.mark_stale(project.comparisons.values_list("pk", flat=True))
    assert counting.count_judgements() == set()
    assert sums_of(project) == before
    assert QualityReport.objects.get(project=project).changes == 3


def test_large_chunks(project, people, monkeypatch):
    monkeypatch.setattr(counting, "CHUNK", 4)
    for comparison in factories.add_texts(project, 9):
        for user in people:
            judge(comparison, user, random.Random(user.pk + comparison.pk).choice([0, 1, "tie"]))
    assert summary_of(project)["judgements"] == 27
    small = sums_of(project)
    monkeypatch.undo()
    counting.count_again(project)
    assert sums_of(project) == small


def test_what_comes_while_it_counts_is_left_for_the_next_time(project, people, monkeypatch):
    """Else it would count for as long as people answer."""
    first, *others = factories.add_texts(project, 3)
    chunks = []

    def count_while_somebody_answers(comparisons):
        judge(others.pop(), people[0], 0)
        chunks.append(set(comparisons))
        return count(comparisons)

    count = counting._count
    monkeypatch.setattr(counting, "_count", count_while_somebody_answers)
    judge(first, people[1], 0)
    assert counting.count_judgements() == {project.pk}
    assert len(chunks) == 1
    assert counting.count_judgements() == {project.pk}
    assert len(chunks) == 2
    monkeypatch.setattr(counting, "_count", count)
    counting.count_judgements()
    assert summary_of(project)["judgements"] == Judgement.objects.count() == 3


@pytest.mark.django_db(transaction=True)
def test_a_judgement_that_appears_late_is_counted(manager):
    """Its number is lower than one that was counted already, because its transaction ended later."""
    project = factories.make_project(by=manager)
    anna, ben = factories.add_annotators(project, 2)
    (comparison,) = factories.add_texts(project, 1)
    written, may_end = threading.Event(), threading.Event()

    def slowly():
        with transaction.atomic():
            judge(comparison, anna, 0)
            written.set()
            may_end.wait(20)
        connection.close()

    thread = threading.Thread(target=slowly)
    thread.start()
    assert written.wait(20)
    late = judge(comparison, ben, 0)
    assert summary_of(project)["judgements"] == 1
    assert summary_of(project)["judgements"] == 1  # not settled while the other transaction lasts
    may_end.set()
    thread.join()
    assert Judgement.objects.earliest("pk").pk < late.pk
    assert summary_of(project)["judgements"] == 2
    cursor = QualityCursor.objects.get()
    assert cursor.settled == cursor.seen == late.pk


def test_poisson_weights():
    """Mean and variance 1, the same whoever asks, independent between comparisons and replicates."""
    weights = poisson_weights(range(1, 4001))
    assert weights.mean() == pytest.approx(1, abs=0.01)
    assert weights.var() == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(poisson_weights([17, 4]), weights[[16, 3]])
    assert abs(np.corrcoef(weights[:-1].ravel(), weights[1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(weights[:, :-1].ravel(), weights[:, 1:].ravel())[0, 1]) < 0.01
