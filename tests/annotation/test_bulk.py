"""Changes to many rows: in batches, resumable, beside the people who work there."""

from datetime import timedelta
from unittest.mock import Mock

import pytest
from django.db import transaction
from django.utils import timezone

from annotation import services, tasks
from annotation.errors import Conflict
from annotation.models import BulkChange, Comparison, Judgement, Lease, Member, Reservation
from annotation.services import assignment, bulk, people, strategies
from annotation.services.strategies import STEP
from tests.annotation import factories
from tests.annotation.test_queue import NOW, answer, take

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Two comparisons in each, and no broker: the test is the worker."""
    for module in (strategies, people, assignment):
        monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(bulk, "enqueue", sent := Mock())
    return sent


def use(project, strategy):
    with transaction.atomic():
        services.update_assignment(project=project, queue_strategy=strategy)
    project.refresh_from_db()
    return BulkChange.objects.filter(project=project).latest("pk")


def one_batch(change):
    bulk._do_batch(change)
    change.refresh_from_db()
    return change


def keys(project):
    return list(
        Comparison.objects.filter(project=project).order_by("rank").values_list("queue_key", flat=True)
    )


def test_a_strategy_follows_batch_by_batch(
    project, annotator, django_capture_on_commit_callbacks, small_batches
):
    """Of five comparisons the first has a judgement; two change at once, the others in the background."""
    services.update_project(project=project, labels_per_comparison=2)
    factories.add_texts(project, 5)
    answer(take(project, annotator), annotator)
    with django_capture_on_commit_callbacks(execute=True):
        change = use(project, "fewest")
    small_batches.assert_called_once_with("run_bulk_change", change.pk)
    assert (change.status, change.done, change.total) == ("running", 2, 5)
    assert keys(project) == [STEP + 1, 2, 3, 4, 5]
    tasks.run_bulk_change(job_id=change.pk)
    change.refresh_from_db()
    assert (change.status, change.done) == ("done", 5)
    assert keys(project) == [STEP + 1, 2, 3, 4, 5]


def test_a_small_project_is_done_at_once(project, django_capture_on_commit_callbacks, small_batches):
    factories.add_texts(project, 1)
    with django_capture_on_commit_callbacks(execute=True):
        assert use(project, "priority").status == "done"
    small_batches.assert_not_called()


def test_what_changes_behind_somebody_comes_to_them(project, annotator, monkeypatch):
    """Their place is behind what was random and is now in order: it is lowered with each batch."""
    use(project, "random")
    factories.add_texts(project, 6)
    Comparison.objects.update(queue_key=STEP // 2)
    for number, pk in enumerate(Comparison.objects.order_by("rank").values_list("pk", flat=True)):
        Comparison.objects.filter(pk=pk).update(queue_key=1000 + number)
    answer(take(project, annotator), annotator)
    assert Member.objects.get(user=annotator).frontier == 1001
    change = use(project, "order")
    # The first two have their ranks, 1 and 2, as keys; the first is judged.
    assert Member.objects.get(user=annotator).frontier <= 2
    seen = []
    while lease := take(project, annotator):
        seen.append(lease.comparison.rank)
        answer(lease, annotator)
        if change.status != "done":
            change = one_batch(change)
    assert seen == [2, 3, 4, 5, 6]


def test_a_later_strategy_ends_the_one_before(project):
    factories.add_texts(project, 5)
    first, second = use(project, "random"), use(project, "priority")
    before = keys(project)
    assert one_batch(first).status == "done"
    assert keys(project) == before
    tasks.run_bulk_change(job_id=second.pk)
    use(project, "order")
    assert BulkChange.objects.get(pk=second.pk).status == "done"


def test_it_goes_on_where_it_stopped(project, monkeypatch):
    """A worker dies within the second batch; the next one begins there, and the fifth death is the last."""
    factories.add_texts(project, 5)
    change = use(project, "priority")
    with monkeypatch.context() as patch:
        patch.setattr(strategies, "rekey_batch", Mock(side_effect=RuntimeError("the disk is full")))
        for _ in range(bulk.MAX_ATTEMPTS):
            with pytest.raises(RuntimeError):
                bulk.run_bulk_change(change.pk)
        change.refresh_from_db()
        assert (change.status, change.done, change.attempts) == ("running", 2, 5)
    BulkChange.objects.filter(pk=change.pk).update(attempts=4)
    bulk.run_bulk_change(change.pk)
    change.refresh_from_db()
    assert (change.status, change.done, change.attempts) == ("done", 5, 0)
    BulkChange.objects.filter(pk=change.pk).update(status="running", attempts=5)
    bulk.run_bulk_change(change.pk)
    change.refresh_from_db()
    assert change.status == "failed"
    assert "started 5 times" in change.error


def test_a_lost_one_is_sent_again(project, monkeypatch):
    factories.add_texts(project, 5)
    change = use(project, "priority")
    BulkChange.objects.filter(pk=change.pk).update(touched_at=NOW - timedelta(minutes=5))
    monkeypatch.setattr(tasks.run_bulk_change, "delay", sent := Mock())
    assert services.resume_lost_jobs(now=NOW, after=timedelta(minutes=1)) == 1
    sent.assert_called_once_with(job_id=change.pk)


def judged(project, annotator, n):
    factories.add_texts(project, n)
    for _ in range(n):
        answer(take(project, annotator), annotator)


def test_setting_aside_and_bringing_back_in_batches(project, annotator):
    judged(project, annotator, 5)
    record = services.set_aside(
        project=project, user=annotator.pk, by=project.created_by, reason="asleep", now=NOW
    )
    assert record.count == 2
    change = record.unfinished_change()
    assert (change.done, change.total) == (2, 5)
    with pytest.raises(Conflict, match="still being set aside"):
        services.restore(record=record, by=project.created_by, now=NOW)
    bulk.run_bulk_change(change.pk)
    record.refresh_from_db()
    assert record.count == 5
    assert record.unfinished_change() is None
    assert Comparison.objects.filter(open_slots=1).count() == 5
    record = services.restore(record=record, by=project.created_by, now=NOW)
    assert Judgement.objects.standing().count() == 2
    bulk.run_bulk_change(record.unfinished_change().pk)
    assert Judgement.objects.standing().count() == 5
    assert Comparison.objects.filter(open_slots=0).count() == 5


def test_what_is_said_after_the_decision_stays(project, annotator):
    judged(project, annotator, 5)
    record = services.set_aside(
        project=project, user=annotator.pk, by=project.created_by, reason="asleep", now=NOW
    )
    services.add_comparisons(project=project, groups=factories.text_groups(1, start=9))
    later, _ = answer(take(project, annotator), annotator)
    bulk.run_bulk_change(record.unfinished_change().pk)
    later.refresh_from_db()
    assert later.set_aside is None
    assert Judgement.objects.standing().count() == 1


def test_a_group_goes_when_its_last_slot_is_free(project, annotator):
    services.update_project(project=project, labels_per_comparison=2)
    group = services.save_group(project=project, name="de", reserved_labels=1)
    services.update_member(project=project, user=annotator.pk, group=group, now=NOW)
    factories.add_texts(project, 5)
    judgement, _ = answer(take(project, annotator), annotator)
    assert (judgement.group, judgement.lease.reserved_for) == (group, group)
    change = services.remove_group(project=project, group=group)
    assert project.annotator_groups.filter(name="de", reserved_labels=0).exists()
    assert Reservation.objects.count() == 3
    bulk.run_bulk_change(change.pk)
    assert not project.annotator_groups.exists()
    assert not Reservation.objects.exists()
    judgement.refresh_from_db()
    assert judgement.group is None
    assert Lease.objects.get(pk=judgement.lease_id).reserved_for is None
    assert Member.objects.get(user=annotator).group is None
    assert set(Comparison.objects.values_list("open_slots", "reserved_open")) == {(1, 0), (2, 0)}


def test_progress_on_the_pages_and_over_the_api(project, annotator, manager_page, as_manager):
    factories.add_texts(project, 5)
    change = use(project, "random")
    words = "Putting the queue into another order"
    for address in ("assignment/", "groups/", f"members/{annotator.pk}/", "changes/"):
        page = manager_page.get(f"/projects/{project.pk}/{address}").content.decode()
        assert words in page
        assert 'max="5.0000" value="2.0000"' in page
        assert "hx-get" in page
    (row,) = as_manager.get(f"/api/v1/projects/{project.pk}/changes/").data["results"]
    assert (row["kind"], row["status"], row["done"], row["total"]) == ("strategy", "running", 2, 5)
    bulk.run_bulk_change(change.pk)
    assert manager_page.get(f"/projects/{project.pk}/changes/").content.strip() == b""
    BulkChange.objects.update(status="failed", error="no disk", finished_at=timezone.now())
    assert "no disk" in manager_page.get(f"/projects/{project.pk}/changes/").content.decode()
