"""What comparisons and candidates refer to is there, as with foreign keys of Postgres' own."""

import threading

import pytest
from django.db import IntegrityError, connection, transaction

from annotation.models import Candidate, Comparison, ImportJob, Project
from annotation.services.copying import copy_columns
from tests.annotation import factories
from tests.annotation.files import GOOD, jsonl, run

pytestmark = pytest.mark.django_db
NOWHERE = 2**40


@pytest.fixture
def imported(project):
    job = run(project, jsonl(GOOD))
    return Comparison.objects.get(import_job=job)


OURS = "SELECT string_agg(tgname, ', ') FROM pg_trigger WHERE tgname LIKE 'pgtrigger_named_as_%%'"


def execute(sql, *values):
    """Our references are checked at once, and so before the foreign keys of Postgres' own."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(OURS)
        cursor.execute(f"SET CONSTRAINTS {cursor.fetchone()[0]} IMMEDIATE")
        cursor.execute(sql, values or None)


@pytest.mark.parametrize(
    ("table", "column"),
    [("comparison", "project_id"), ("comparison", "import_job_id"), ("candidate", "comparison_id")],
)
def test_nothing_comes_to_refer_to_what_is_not_there(imported, table, column):
    with pytest.raises(IntegrityError, match=f"{column} names"):
        execute(f"UPDATE annotation_{table} SET {column} = %s", NOWHERE)


@pytest.mark.parametrize("changed", [{"project_id": NOWHERE}, {"import_job_id": NOWHERE}])
def test_no_comparison_is_added_to_what_is_not_there(imported, changed):
    values = {"project_id": imported.project_id, "rank": 99, "queue_key": 99, "prompt": "q", "needed": 1}
    with pytest.raises(IntegrityError, match="no row of"), transaction.atomic():
        Comparison.objects.create(**values | {"open_slots": 1} | changed)


def test_one_row_of_many_without_its_comparison_fails_them_all(imported):
    columns = {"comparison_id": [imported.pk, NOWHERE], "index": [2, 0], "text": ["a", "b"]}
    with pytest.raises(IntegrityError, match=str(NOWHERE)), transaction.atomic():
        copy_columns(Candidate, columns)
    assert Candidate.objects.count() == 2


@pytest.mark.parametrize("table", ["project", "importjob", "comparison"])
@pytest.mark.parametrize(
    "change", ["DELETE FROM annotation_{}", "UPDATE annotation_{} SET id = id + 1000000"]
)
def test_what_is_referred_to_stays(imported, table, change):
    with pytest.raises(IntegrityError, match="still names"):
        execute(change.format(table))


def test_all_of_it_can_go_together(imported):
    with transaction.atomic(), connection.cursor() as cursor:
        for table in ("comparison", "candidate"):
            cursor.execute(f"DELETE FROM annotation_{table}")
    assert not Comparison.objects.exists()


def test_a_project_goes_with_all_that_is_in_it(imported):
    imported.project.delete()
    assert (Project.objects.count(), Comparison.objects.count(), Candidate.objects.count()) == (0, 0, 0)
    assert not ImportJob.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_deletion_waits_for_who_refers_to_it(project):
    """The candidate is there before the deletion sees whether there is one."""
    (comparison,) = factories.add_texts(project, 1)
    added, outcome = threading.Event(), []

    def delete():
        added.wait()
        try:
            execute("DELETE FROM annotation_comparison WHERE id = %s", comparison.pk)
        except IntegrityError as error:
            outcome.append(str(error))
        finally:
            connection.close()

    execute("DELETE FROM annotation_candidate")
    thread = threading.Thread(target=delete)
    thread.start()
    with transaction.atomic():
        Candidate.objects.create(comparison=comparison, index=0, text="late")
        added.set()
        thread.join(timeout=0.3)
        assert thread.is_alive()
    thread.join(timeout=60)
    assert "still names" in outcome[0]
    assert Candidate.objects.filter(comparison=comparison).exists()


def test_what_one_transaction_adds_and_takes_away_is_missed_at_its_end(project):
    (comparison,) = factories.add_texts(project, 1)
    Candidate.objects.create(comparison=comparison, index=2, text="c")
    with pytest.raises(IntegrityError, match="still names"):
        execute("DELETE FROM annotation_comparison WHERE id = %s", comparison.pk)


@pytest.mark.django_db(transaction=True)
def test_an_import_locks_nothing_that_it_added_itself(project):
    """The lock of a row would be the transaction in its xmax."""
    job = run(project, jsonl(GOOD))
    locked = "SELECT count(*) FROM annotation_comparison WHERE import_job_id = %s AND xmax <> 0"
    with connection.cursor() as cursor:
        cursor.execute(locked, [job.pk])
        assert cursor.fetchone() == (0,)
    comparison = Comparison.objects.get(import_job=job)
    Candidate.objects.create(comparison=comparison, index=2, text="later")  # and somebody else's is locked
    with connection.cursor() as cursor:
        cursor.execute(locked, [job.pk])
        assert cursor.fetchone() == (1,)
