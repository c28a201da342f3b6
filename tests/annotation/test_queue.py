"""Leases one person at a time: what comes next, what comes back, what is refused."""

import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from annotation import services
from annotation.errors import Conflict, NotFound
from annotation.models import Comparison, Lease, Member
from tests.annotation import factories

pytestmark = pytest.mark.django_db
NOW = timezone.now()


def take(project, user, **values):
    return services.next_lease(project=project, user=user, **{"now": NOW} | values)


def answer(lease, user, choice=0, **values):
    values = {"client_id": uuid.uuid4(), "now": NOW, "want_next": False} | values
    return services.submit_judgement(lease_id=lease.pk, annotator=user, choice=choice, **values)


def test_nothing_left(project, annotator):
    assert take(project, annotator) is None


def test_the_open_lease_comes_again(project, annotator):
    factories.add_texts(project, 3)
    first = take(project, annotator)
    assert take(project, annotator).pk == first.pk
    assert Lease.objects.count() == 1


def test_order_of_the_queue(project, annotator):
    comparisons = factories.add_texts(project, 20)
    seen = []
    lease = take(project, annotator)
    while lease:
        seen.append(lease.comparison_id)
        _, lease = answer(lease, annotator, want_next=True)
    assert seen == [comparison.pk for comparison in comparisons]
    assert Member.objects.get(user=annotator).frontier == comparisons[-1].rank + 1
    assert set(Comparison.objects.values_list("open_slots", flat=True)) == {0}


def test_one_ahead_and_two_at_most(project, annotator):
    factories.add_texts(project, 5)
    first = take(project, annotator)
    second = take(project, annotator, after=first)
    assert second.pk != first.pk
    assert take(project, annotator, after=first).pk == second.pk
    assert take(project, annotator, after=second).pk == first.pk
    assert Lease.objects.count() == 2


def test_answer_and_take_the_one_behind(project, annotator):
    factories.add_texts(project, 5)
    first = take(project, annotator)
    second = take(project, annotator, after=first)
    _, third = answer(first, annotator, want_next=True, after=second.pk)
    assert third.pk not in (first.pk, second.pk)
    assert third.comparison.rank > second.comparison.rank


def test_choice_is_stored_canonically(project, annotator):
    factories.add_texts(project, 30)
    lease = take(project, annotator)
    orders = set()
    while lease:
        shown = services.present(lease)["candidates"]
        judgement, following = answer(lease, annotator, choice=1, want_next=True)
        chosen = judgement.comparison.candidates.get(index=judgement.choice)
        assert chosen.text == shown[1]["text"]
        orders.add(tuple(judgement.order))
        lease = following
    assert orders == {(0, 1), (1, 0)}  # fails by chance once in 2**29


def expire(lease):
    Lease.objects.filter(pk=lease.pk).update(expires_at=NOW - timedelta(seconds=1))


def frontier(user):
    return Member.objects.get(user=user).frontier


def test_overlap_goes_to_different_people(project, annotator):
    services.update_project(project=project, labels_per_comparison=2)
    factories.add_texts(project, 1)
    (second, third) = factories.add_annotators(project, 2)
    slots = {take(project, annotator).slot, take(project, second).slot}
    assert slots == {0, 1}
    assert take(project, third) is None


def test_expiry_reopens_the_slot_and_lowers_every_frontier(project, annotator):
    first, *_ = factories.add_texts(project, 3)
    (other,) = factories.add_annotators(project, 1)
    lease = take(project, annotator)
    theirs = take(project, other)
    answer(theirs, other, want_next=True)
    assert frontier(other) > first.rank
    expire(lease)
    assert services.reopen_expired_leases(now=NOW) == 1
    assert services.reopen_expired_leases(now=NOW) == 0
    assert frontier(other) == first.rank
    lease.refresh_from_db()
    first.refresh_from_db()
    assert (lease.state, first.open_slots) == ("expired", 1)


def test_nothing_left_takes_lapsed_leases_back_first(project, annotator):
    factories.add_texts(project, 1)
    (other,) = factories.add_annotators(project, 1)
    lease = take(project, annotator)
    assert take(project, other) is None
    expire(lease)
    assert take(project, other).comparison_id == lease.comparison_id


def test_own_lapsed_lease_comes_again_with_new_time(project, annotator):
    factories.add_texts(project, 1)
    lease = take(project, annotator)
    expire(lease)
    again = take(project, annotator)
    assert again.pk == lease.pk
    assert again.expires_at == NOW + timedelta(minutes=project.lease_minutes)


def test_comparisons_added_after_the_end_are_found(project, annotator):
    factories.add_texts(project, 1)
    answer(take(project, annotator), annotator)
    assert take(project, annotator) is None
    factories.add_texts(project, 1)
    assert take(project, annotator) is not None


def test_skip(project, annotator):
    first, second = factories.add_texts(project, 2)
    (other,) = factories.add_annotators(project, 1)
    lease = take(project, annotator)
    services.skip_lease(lease_id=lease.pk, annotator=annotator, reason="both in Dutch", now=NOW)
    services.skip_lease(lease_id=lease.pk, annotator=annotator, reason="both in Dutch", now=NOW)
    lease.refresh_from_db()
    first.refresh_from_db()
    assert (lease.state, lease.skip_reason, first.open_slots) == ("skipped", "both in Dutch", 1)
    assert take(project, annotator).comparison_id == second.pk
    assert take(project, other).comparison_id == first.pk
    with pytest.raises(Conflict, match="its lease is skipped"):
        answer(lease, annotator)


def test_renew(project, annotator):
    factories.add_texts(project, 1)
    lease = take(project, annotator)
    later = NOW + timedelta(minutes=10)
    renewed = services.renew_lease(lease_id=lease.pk, annotator=annotator, now=later)
    assert renewed.expires_at == later + timedelta(minutes=project.lease_minutes)
    answer(lease, annotator)
    with pytest.raises(Conflict, match="its lease is judged"):
        services.renew_lease(lease_id=lease.pk, annotator=annotator, now=later)


def test_a_removed_member_gives_everything_back(project, annotator):
    (comparison,) = factories.add_texts(project, 1)
    lease = take(project, annotator)
    services.remove_member(project=project, user=annotator, by=project.created_by)
    comparison.refresh_from_db()
    assert comparison.open_slots == 1
    with pytest.raises(NotFound):
        answer(lease, annotator)


def test_frontier_does_not_pass_rows_had_by_others(project, annotator):
    """Leased rows are closed; when they come back the frontier must come back too."""
    comparisons = factories.add_texts(project, 40)
    people = factories.add_annotators(project, 20)
    leases = [take(project, person) for person in people]
    lease = take(project, annotator)
    assert lease.comparison_id == comparisons[20].pk
    for other, person in zip(leases, people, strict=True):
        services.skip_lease(lease_id=other.pk, annotator=person, now=NOW)
    _, following = answer(lease, annotator, want_next=True)
    assert following.comparison_id == comparisons[0].pk


def test_queries_of_next_do_not_grow(project, annotator, django_assert_num_queries):
    factories.add_texts(project, 60, needed=2)
    lease = take(project, annotator)
    for _ in range(40):
        _, lease = answer(lease, annotator, want_next=True)
    answer(lease, annotator)
    with django_assert_num_queries(6):  # savepoint (2), member, held, ahead and lock, write
        assert take(project, annotator)


def test_no_plan_of_a_young_site_reads_all_leases(project, annotator):
    """Statements are prepared when the tables are all but empty, and statistics say so."""
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    factories.add_texts(project, 40)
    lease = take(project, annotator)
    before = tables_read_whole()
    for _ in range(20):  # more than are planned anew
        _, lease = answer(lease, annotator, want_next=True)
    assert tables_read_whole() == before


def tables_read_whole():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname, seq_scan FROM pg_stat_xact_user_tables"
            " WHERE relname IN ('annotation_lease', 'annotation_judgement', 'annotation_comparison')"
        )
        return dict(cursor.fetchall())
