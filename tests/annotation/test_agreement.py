"""Agreement by hand, and against Krippendorff's own example."""

import uuid

import krippendorff
import numpy as np
import pytest
from django.utils import timezone

from annotation import agreement, services
from annotation.models import Judgement
from tests.annotation import factories

pytestmark = pytest.mark.django_db


def judge(comparison, user, choice, *, order=(0, 1), seconds=None, **values):
    return Judgement.objects.create(
        comparison=comparison,
        annotator=user,
        choice=choice,
        order=list(order),
        seconds=seconds,
        template_version=1,
        created_at=timezone.now(),
        client_id=uuid.uuid4(),
        request_digest="",
        **values,
    )


@pytest.fixture
def people(project):
    return factories.add_annotators(project, 3)


def test_nothing_to_say_yet(project, people):
    (comparison,) = factories.add_texts(project, 1)
    judge(comparison, people[0], 0)
    assert agreement.summarise(project) == agreement.Agreement(comparisons=0, judgements=0, pairs=0)


def test_by_hand(project, people):
    """Pairs: 1 of 1 agree, 1 of 3, 0 of 1: 2 of 5.

    Votes: 4 for 0, 2 for 1, 1 tie: chance (12 + 2 + 0) / 42 = 1/3.
    Coincidences: 2, then 2 / 2 = 1, then 0: alpha = 1 - 6 (7 - 3) / (49 - 21) = 1/7.
    """
    first, second, third, lonely = factories.add_texts(project, 4)
    for comparison, choices in ((first, [0, 0]), (second, [0, 0, 1]), (third, ["tie", 1]), (lonely, [0])):
        for user, choice in zip(people, choices, strict=False):
            judge(comparison, user, choice)
    found = agreement.summarise(project)
    assert (found.comparisons, found.judgements, found.pairs) == (3, 7, 5)
    assert found.agreement == pytest.approx(2 / 5)
    assert found.chance == pytest.approx(1 / 3)
    assert found.alpha == pytest.approx(1 / 7)
    assert 0 <= found.low <= found.agreement <= found.high <= 1
    assert found.alpha_low <= found.alpha <= found.alpha_high


def test_only_standing_regular_judgements_with_a_choice(project, people):
    (comparison,) = factories.add_texts(project, 1)
    judge(comparison, people[0], 0)
    judge(comparison, people[1], 0)
    judge(comparison, people[2], 1, undone_at=timezone.now())
    judge(comparison, people[2], 1, kind="gold")
    judge(comparison, people[2], None)
    found = agreement.summarise(project)
    assert (found.pairs, found.agreement) == (1, 1.0)
    assert found.alpha is None  # everybody always says the same


def test_the_bootstrap_uses_the_same_alpha_as_the_package():
    generator = np.random.default_rng(0)
    for _ in range(20):
        counts = generator.integers(0, 4, size=(30, 4)).astype(float)
        counts = counts[counts.sum(axis=1) >= 2]
        _, _, alpha = agreement.statistics(counts, np.ones(len(counts)))
        expected = krippendorff.alpha(value_counts=counts, level_of_measurement="nominal")
        assert alpha == pytest.approx(expected, abs=1e-12)


def test_krippendorffs_example():
    """Krippendorff (2011), section C: four observers, twelve units, nominal alpha 0.743."""
    nan = np.nan
    data = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
            [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
        ]
    )
    counts = np.array([[(unit == value).sum() for value in range(1, 6)] for unit in data.T], dtype=float)
    counts = counts[counts.sum(axis=1) >= 2]
    assert agreement.statistics(counts, np.ones(len(counts)))[2] == pytest.approx(0.743, abs=5e-4)


def test_the_interval_covers(project):
    """Of 200 projects of 60 comparisons with a true agreement of 0.7, about 95 % are covered."""
    generator, covered = np.random.default_rng(1), 0
    counts = np.array([[2.0, 0.0], [1.0, 1.0]])
    for _ in range(200):
        times = generator.multinomial(60, [0.7, 0.3])
        resampled = generator.multinomial(60, times / 60, size=500).astype(float)
        low, high = np.quantile(agreement.statistics(counts, resampled)[0], [0.025, 0.975])
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / 200 <= 0.99


def test_annotators(project, people, django_assert_num_queries):
    anna, ben, _ = people
    comparisons = factories.add_texts(project, 4)
    for comparison, choice, seconds in zip(comparisons, [0, 0, 1, "tie"], [4, 6, 8, 30], strict=True):
        judge(comparison, anna, choice, order=(0, 1), seconds=seconds)
    judge(comparisons[0], ben, 0, order=(1, 0), seconds=2)
    judge(comparisons[1], ben, 1, order=(1, 0))
    with django_assert_num_queries(1):
        first, second = agreement.annotators(project)
    assert (first.name, first.judgements, first.median_seconds, first.undecided) == (anna.username, 4, 7.0, 1)
    assert (first.agreement.value, first.compared) == (0.5, 2)
    assert (first.first_side.value, first.sided) == (pytest.approx(2 / 3), 3)
    assert (second.name, second.median_seconds) == (ben.username, 2.0)
    assert second.first_side.value == 0.5


def test_wilson_by_hand():
    """5 of 10: z²/n = 0.384; 1/2 ± 1.96 / 1.384 * sqrt(0.025 + 0.0096) = 0.5 ± 0.2634."""
    interval = agreement.wilson(5, 10)
    assert (interval.low, interval.high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert agreement.wilson(0, 10).low == 0
    assert agreement.wilson(10, 10).high == pytest.approx(1)


def test_a_large_project_is_summed_up_in_one_query(project, django_assert_num_queries):
    users = factories.add_annotators(project, 2)
    comparisons = factories.add_texts(project, 50)
    for comparison in comparisons:
        for user in users:
            judge(comparison, user, comparison.pk % 2)
    with django_assert_num_queries(1):
        assert agreement.summarise(project).agreement == 1.0
    assert services.progress(project=project, user=users[0], now=timezone.now())["mine"] == 50
