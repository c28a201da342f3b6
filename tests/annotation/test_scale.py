"""Large projects: how Postgres reads the queue, and the benchmark's parts on a small one."""

import subprocess
import sys

import pytest
from django.db import connection
from django.utils import timezone

from annotation import services
from annotation.models import Comparison, ExportJob, Member, Project, QualityUnit, QueueStrategy
from annotation.services import bulk, strategies
from annotation.services.quality import refresh_quality
from benchmarks import scale_parts, seeding
from tests.annotation import factories
from tests.annotation.test_queue import NOW, answer, take

pytestmark = pytest.mark.django_db
SIZE = seeding.Size(comparisons=20_000, judgements=1500, behind=900, people=4, overlap=3)


@pytest.fixture
def seeded():
    found = seeding.seed(SIZE)
    assert seeding.check_seeded(found.project) == []
    return Project.objects.get(pk=found.project)


def test_every_strategy_is_read_by_its_index(seeded, monkeypatch):
    """Twenty thousand open comparisons, of which the annotator has judged the first nine hundred: no plan
    reads a table from end to end or sorts the queue; with statistics and without."""
    monkeypatch.setattr(strategies, "BATCH", 10_000)
    person = Member.objects.filter(project=seeded, role="annotator").order_by("pk").first()
    services.save_group(project=seeded, name="some", reserved_labels=1)
    for strategy in (QueueStrategy.ORDER, QueueStrategy.FEWEST, QueueStrategy.RANDOM, QueueStrategy.PRIORITY):
        if seeded.queue_strategy != strategy:
            change = services.use_strategy(project=seeded, strategy=strategy)
            bulk.run_bulk_change(change.pk)
        for found in scale_parts.plans(seeded.pk):
            if found["query"].startswith("next"):
                assert "Index Scan comparison_open_queue" in found["nodes"]
                assert "Index Only Scan lease_had" in found["nodes"]
        lease = services.next_lease(project=seeded, user=person.user, now=timezone.now())
        assert lease.comparison.rank > SIZE.behind
        services.skip_lease(lease_id=lease.pk, annotator=person.user, now=timezone.now())
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    assert scale_parts.plans(seeded.pk)


def test_a_plan_that_reads_everything_is_found():
    scan = {"Node Type": "Seq Scan", "Relation Name": "annotation_lease", "Actual Rows": 0, "Actual Loops": 1}
    assert scale_parts.problem_of(scan | {"Rows Removed by Filter": 90}) == "reads all of annotation_lease"
    assert scale_parts.problem_of(scan) is None  # an empty table
    sort = {"Node Type": "Sort", "Actual Rows": 500.0, "Actual Loops": 1}
    assert scale_parts.problem_of(sort) == "sorts 500 rows"
    assert scale_parts.problem_of(sort | {"Actual Rows": 20.0}) is None


def test_the_parts_of_the_benchmark_on_a_small_project(monkeypatch):
    monkeypatch.setattr(scale_parts, "REPEATS", 1)
    found = seeding.seed(seeding.Size(comparisons=60, judgements=90, behind=6, people=4, overlap=3))
    assert set(scale_parts.count(found.project)) == {"words", "counting", "fitting"}
    assert {page["page"] for page in scale_parts.pages(found.project)} >= {"quality", "review", "overview"}
    for number, (format, container, filters) in enumerate(scale_parts.EXPORTS):
        row = scale_parts.export(found.project, format, container, filters)
        assert row["rows"] > 0
        assert row["peak"] < 300, scale_parts.EXPORTS[number]
    assert not ExportJob.objects.exclude(status="done").exists()


# The review queue


def judged_by(project, people, choices):
    """Everybody judges the next comparison, with canonical choices."""
    for user, choice in zip(people, choices, strict=True):
        lease = take(project, user)
        answer(lease, user, choice=lease.order.index(choice))


def test_counting_marks_what_is_disputed(project, manager):
    """Two agree on the first and not on the second; the third has one answer of two."""
    services.update_project(project=project, labels_per_comparison=2)
    people = factories.add_annotators(project, 2)
    factories.add_texts(project, 3)
    for choices in ((0, 0), (0, 1)):
        judged_by(project, people, choices)
    answer(take(project, people[0]), people[0])
    refresh_quality(now=NOW)
    marked = QualityUnit.objects.filter(disputed=True).values_list("comparison__rank", flat=True)
    assert list(marked) == [2]
    assert services.reviews_waiting(project) == 1
    lease = services.next_review(project=project, user=manager, now=timezone.now())
    assert lease.comparison.rank == 2
    answer(lease, manager)
    assert services.reviews_waiting(project) == 0
    refresh_quality(now=NOW)
    assert not QualityUnit.objects.filter(disputed=True).exists()
    judged_by(project, people[1:], (0,))


def test_what_is_not_counted_yet_can_be_reviewed(project, manager):
    """New disputes come at once, and what was taken back since is none any more."""
    services.update_project(project=project, labels_per_comparison=2)
    people = factories.add_annotators(project, 2)
    factories.add_texts(project, 2)
    judged_by(project, people, (0, 1))
    refresh_quality(now=NOW)
    judged_by(project, people, (1, 0))
    assert services.reviews_waiting(project) == 2
    first = Comparison.objects.get(project=project, rank=1)
    given = first.judgements.get(annotator=people[0])
    services.undo_judgement(judgement_id=given.pk, annotator=people[0], now=timezone.now())
    assert services.reviews_waiting(project) == 1
    lease = services.next_review(project=project, user=manager, now=timezone.now())
    assert lease.comparison.rank == 2


@pytest.mark.slow
def test_the_whole_benchmark_on_small_projects(tmp_path):
    """Servers, requests and report; how fast it is says nothing here."""
    # Long enough for a server's first request, which loads it, and more work than there is time for.
    numbers = {"comparisons": 4000, "judgements": 600, "behind": 60, "small": 3000}
    numbers |= {"rounds": 1, "seconds": 4}
    size = [part for name, value in numbers.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.scale", *size, "--strategies", "fewest,order"]
    report = tmp_path / "report.md"
    done = subprocess.run([*command, "--write", str(report)], capture_output=True, text=True, timeout=600)
    assert report.exists(), done.stderr
    text = report.read_text()
    for part in ("ratio of the p95", "| fewest |", "| quality |", "| groups, parquet, each judgement |"):
        assert part in text, text
