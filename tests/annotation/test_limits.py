"""Rate limits: exact under many processes, for each user, generous for judging."""

import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from annotation.models import RateCount
from annotation.services import limits
from tests.annotation import factories
from tests.annotation.conftest import api_client

THREE = limits.Rate(3, timedelta(minutes=1))


def ask(who="anna", rate=THREE):
    return limits.count(what="test", who=who, rate=rate)


@pytest.mark.django_db
def test_three_and_no_more():
    assert [ask().is_within for _ in range(5)] == [True, True, True, False, False]
    assert ask("ben").is_within
    assert 55 < ask().wait <= 60


@pytest.mark.django_db
def test_the_window_ends():
    short = limits.Rate(1, timedelta(seconds=30))
    assert [ask(rate=short).is_within for _ in range(2)] == [True, False]
    RateCount.objects.update(started_at=timezone.now() - timedelta(seconds=31))
    assert [ask(rate=short).is_within for _ in range(2)] == [True, False]


@pytest.mark.django_db
def test_nobody_is_named_and_old_counts_go():
    ask("anna 10.0.0.1")
    assert "anna" not in str(RateCount.objects.values())
    limits.forget_old_counts(now=timezone.now())
    assert RateCount.objects.exists()
    limits.forget_old_counts(now=timezone.now() + timedelta(days=2))
    assert not RateCount.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_eight_workers_count_exactly():
    """Each thread has a connection of its own, as each gunicorn worker has."""
    rate, within = limits.Rate(40, timedelta(minutes=1)), []

    def work():
        within.extend(ask(rate=rate).is_within for _ in range(10))
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (within.count(True), within.count(False)) == (40, 40)


@pytest.mark.django_db
def test_the_api_says_when_to_come_back(as_manager, project, manager, settings):
    settings.RATE_LIMITS = {"api": (2, timedelta(minutes=1)), "judging": None}
    factories.add_texts(project, 1)
    statuses = [as_manager.get("/api/v1/projects/").status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    refused = api_client(manager).get("/api/v1/projects/")  # another token of the same user
    assert (refused.status_code, refused["Content-Type"]) == (429, "application/problem+json")
    assert 55 < int(refused["Retry-After"]) <= 60
    assert as_manager.post(f"/api/v1/projects/{project.pk}/next/").status_code == 200


@pytest.mark.django_db
def test_judging_has_a_limit_of_its_own(as_annotator, project, settings):
    settings.RATE_LIMITS = {"api": None, "judging": (2, timedelta(minutes=1))}
    factories.add_texts(project, 1)
    statuses = [as_annotator.post(f"/api/v1/projects/{project.pk}/next/").status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert as_annotator.get("/api/v1/projects/").status_code == 200
