"""Answers: exactly once, honoured when late, taken back once, refused with the answer in hand."""

import uuid
from datetime import timedelta

import pytest

from annotation import services
from annotation.errors import Conflict, Invalid, NotFound
from annotation.models import Comparison, Judgement, Lease
from tests.annotation import factories
from tests.annotation.test_queue import NOW, answer, expire, take

pytestmark = pytest.mark.django_db


def test_everything_is_stored(project, annotator):
    factories.add_texts(project, 1)
    lease = take(project, annotator)
    judgement, following = answer(lease, annotator, 1, strength=3, now=NOW + timedelta(seconds=9))
    assert following is None
    judgement.refresh_from_db()
    assert judgement.order == lease.order
    assert (judgement.choice, judgement.strength, judgement.seconds) == (lease.order[1], 3, 9.0)
    assert (judgement.kind, judgement.template_version, judgement.undone_at) == ("regular", 1, None)
    lease.refresh_from_db()
    assert (lease.state, lease.closed_at) == ("judged", judgement.created_at)


def test_seconds_count_from_the_answer_before_when_fetched_ahead(project, annotator):
    factories.add_texts(project, 2)
    first = take(project, annotator)
    second = take(project, annotator, after=first)
    answer(first, annotator, now=NOW + timedelta(seconds=30))
    judgement, _ = answer(second, annotator, now=NOW + timedelta(seconds=34))
    assert judgement.seconds == 4.0


@pytest.mark.parametrize("choice", ["tie", "both_bad"])
def test_words(project, annotator, choice):
    factories.add_texts(project, 1)
    judgement, _ = answer(take(project, annotator), annotator, choice)
    judgement.refresh_from_db()
    assert judgement.choice == choice


def test_a_repeat_changes_nothing_and_says_the_same(project, annotator):
    factories.add_texts(project, 5)
    lease = take(project, annotator)
    again = {"client_id": uuid.uuid4(), "want_next": True}
    judgement, following = answer(lease, annotator, **again)
    told = following.expires_at
    services.renew_lease(lease_id=following.pk, annotator=annotator, now=NOW + timedelta(minutes=5))
    repeated, repeated_following = answer(lease, annotator, **again, now=NOW + timedelta(minutes=6))
    assert (repeated.pk, repeated_following.pk) == (judgement.pk, following.pk)
    assert repeated_following.expires_at == told
    assert (Judgement.objects.count(), Lease.objects.count()) == (1, 2)


def test_a_repeat_with_another_body_is_refused(project, annotator):
    factories.add_texts(project, 2)
    lease = take(project, annotator)
    client_id = uuid.uuid4()
    _, following = answer(lease, annotator, client_id=client_id, want_next=True)
    for other, choice in ((lease, 1), (following, 0)):
        with pytest.raises(Conflict, match="Another answer was stored under this client_id"):
            answer(other, annotator, choice, client_id=client_id)


def test_the_same_client_id_of_two_people(project, annotator):
    factories.add_texts(project, 2)
    (other,) = factories.add_annotators(project, 1)
    client_id = uuid.uuid4()
    answer(take(project, annotator), annotator, client_id=client_id)
    answer(take(project, other), other, client_id=client_id)
    assert Judgement.objects.filter(client_id=client_id).count() == 2


def test_the_same_client_id_in_two_projects(project, annotator):
    second = factories.make_project(by=project.created_by)
    services.add_member(project=second, username=annotator.username, role="annotator", by=project.created_by)
    for each in (project, second):
        factories.add_texts(each, 1)
    client_id = uuid.uuid4()
    answer(take(project, annotator), annotator, client_id=client_id)
    with pytest.raises(Conflict):
        answer(take(second, annotator), annotator, client_id=client_id)


def test_a_used_lease(project, annotator):
    factories.add_texts(project, 1)
    lease = take(project, annotator)
    answer(lease, annotator)
    with pytest.raises(Conflict, match="its lease is judged") as refusal:
        answer(lease, annotator, 1, strength=2)
    assert refusal.value.answer == {"choice": 1, "strength": 2}


def test_somebody_elses_lease(project, annotator):
    factories.add_texts(project, 1)
    lease = take(project, annotator)
    (other,) = factories.add_annotators(project, 1)
    for call in (
        lambda: answer(lease, other),
        lambda: services.skip_lease(lease_id=lease.pk, annotator=other, now=NOW),
        lambda: services.renew_lease(lease_id=lease.pk, annotator=other, now=NOW),
        lambda: services.lease_of(lease_id=lease.pk, annotator=other),
    ):
        with pytest.raises(NotFound):
            call()
    judgement, _ = answer(lease, annotator)
    with pytest.raises(NotFound):
        services.undo_judgement(judgement_id=judgement.pk, annotator=other, now=NOW)


def test_a_lapsed_lease_is_honoured(project, annotator):
    """Not yet taken back: the slot is still this person's."""
    factories.add_texts(project, 1)
    lease = take(project, annotator)
    expire(lease)
    answer(lease, annotator)
    assert Comparison.objects.get().open_slots == 0


def test_an_expired_lease_is_honoured_while_a_slot_is_open(project, annotator):
    factories.add_texts(project, 1)
    lease = take(project, annotator)
    expire(lease)
    services.reopen_expired_leases(now=NOW)
    answer(lease, annotator)
    lease.refresh_from_db()
    assert (lease.state, Comparison.objects.get().open_slots) == ("judged", 0)


def test_an_expired_lease_whose_slot_is_gone(project, annotator):
    factories.add_texts(project, 1)
    lease = take(project, annotator)
    expire(lease)
    (other,) = factories.add_annotators(project, 1)
    theirs = take(project, other)
    with pytest.raises(Conflict, match="nothing was stored") as refusal:
        answer(lease, annotator, "tie")
    assert refusal.value.answer == {"choice": "tie"}
    answer(theirs, other)
    assert Judgement.objects.get().annotator == other


def test_an_expired_lease_after_the_same_comparison_came_again(project, annotator):
    """The answer goes into the slot that this person holds by their newer lease."""
    factories.add_texts(project, 1)
    old = take(project, annotator)
    expire(old)
    services.reopen_expired_leases(now=NOW)
    new = take(project, annotator)
    assert new.pk != old.pk
    answer(old, annotator)
    assert Comparison.objects.get().open_slots == 0
    assert dict(Lease.objects.values_list("pk", "state")) == {old.pk: "judged", new.pk: "expired"}
    with pytest.raises(Conflict, match="answered this comparison already"):
        answer(new, annotator)


def test_undo(project, annotator):
    factories.add_texts(project, 3)
    lease = take(project, annotator)
    judgement, following = answer(lease, annotator, want_next=True, now=NOW + timedelta(seconds=1))
    back = services.undo_judgement(judgement_id=judgement.pk, annotator=annotator, now=NOW)
    assert (back.comparison_id, back.order, back.slot) == (lease.comparison_id, lease.order, lease.slot)
    assert back.pk != lease.pk
    judgement.refresh_from_db()
    assert judgement.undone_at == NOW
    assert take(project, annotator).pk == back.pk
    assert take(project, annotator, after=back).pk == following.pk
    with pytest.raises(Conflict, match="taken back already"):
        services.undo_judgement(judgement_id=judgement.pk, annotator=annotator, now=NOW)
    answer(back, annotator, "tie")
    assert [row.choice for row in Judgement.objects.standing()] == ["tie"]
    assert Judgement.objects.count() == 2


def test_undo_does_not_hoard(project, annotator):
    factories.add_texts(project, 12)
    lease, made = take(project, annotator), []
    while lease:
        judgement, lease = answer(lease, annotator, want_next=True)
        made.append(judgement)
    for judgement in made[:10]:
        services.undo_judgement(judgement_id=judgement.pk, annotator=annotator, now=NOW)
    with pytest.raises(Conflict, match="10 comparisons are open already"):
        services.undo_judgement(judgement_id=made[10].pk, annotator=annotator, now=NOW)


def test_a_repeat_after_undo_still_says_the_same(project, annotator):
    factories.add_texts(project, 2)
    lease, client_id = take(project, annotator), uuid.uuid4()
    judgement, _ = answer(lease, annotator, client_id=client_id)
    services.undo_judgement(judgement_id=judgement.pk, annotator=annotator, now=NOW)
    repeated, _ = answer(lease, annotator, client_id=client_id)
    assert repeated.pk == judgement.pk


@pytest.mark.parametrize(
    ("choice", "values", "field"),
    [
        (2, {}, "choice"),
        (-1, {}, "choice"),
        ("left", {}, "choice"),
        ("tie", {"strength": 2}, "strength"),
        (0, {"strength": 4}, "strength"),
        (0, {"answers": {"mood": "good"}}, "mood"),
    ],
)
def test_answers_that_do_not_fit(project, annotator, choice, values, field):
    factories.add_texts(project, 1)
    lease = take(project, annotator)
    with pytest.raises(Invalid) as refusal:
        answer(lease, annotator, choice, **values)
    assert list(refusal.value.errors) == [field]
    lease.refresh_from_db()
    assert lease.state == "open"


def test_best_of_four(project, annotator):
    services.add_comparisons(project=project, groups=factories.text_groups(1, k=4))
    lease = take(project, annotator)
    judgement, _ = answer(lease, annotator, 3)
    assert judgement.choice == lease.order[3]


def test_queries_of_submit_and_next_do_not_grow(project, annotator, django_assert_num_queries):
    factories.add_texts(project, 60, needed=2)
    lease = take(project, annotator)
    for _ in range(40):
        _, lease = answer(lease, annotator, want_next=True)
    with django_assert_num_queries(6):  # savepoint (2), member, leases, ahead and lock, write
        answer(lease, annotator, want_next=True)
