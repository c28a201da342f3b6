"""Many people at once, on real connections: every slot is filled exactly once and nobody starves.

Without the row lock on the member or on the comparison (`FOR NO KEY UPDATE` in `annotation.services.queue`)
these fail.
"""

import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone

from annotation import services
from annotation.errors import Conflict
from annotation.models import Comparison, Judgement, Lease, Member
from tests.annotation import factories

pytestmark = pytest.mark.django_db(transaction=True)
PEOPLE = 24


def at_once(work: list[Callable[[], None]]) -> None:
    """Run all at the same time, each on its own connection; the first error of any is raised here."""
    barrier, errors = threading.Barrier(len(work)), []

    def run(function):
        try:
            barrier.wait()
            function()
        except BaseException as error:  # noqa: BLE001  raised again below
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[function]) for function in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads)


def take(project, user, **values):
    return services.next_lease(project=project, user=user, now=timezone.now(), **values)


def answer(lease, user, choice=0, **values):
    values = {"client_id": uuid.uuid4(), "now": timezone.now()} | values
    return services.submit_judgement(lease_id=lease.pk, annotator=user, choice=choice, **values)


def abandon(lease):
    """As if its time had run out."""
    past = timezone.now() - timedelta(seconds=1)
    Lease.objects.filter(pk=lease.pk, state="open").update(expires_at=past)


def assert_every_slot_filled_once(project):
    for comparison in Comparison.objects.filter(project=project):
        assert comparison.open_slots == 0
        judged = comparison.leases.filter(state="judged").values_list("slot", flat=True)
        assert sorted(judged) == list(range(comparison.needed))
        assert comparison.judgements.standing().count() == comparison.needed
    doubled = Counter(Judgement.objects.standing().values_list("comparison", "annotator"))
    assert max(doubled.values()) == 1


def test_everybody_takes_until_nothing_is_left(project):
    services.update_project(project=project, labels_per_comparison=3)
    factories.add_texts(project, 40)
    people = factories.add_annotators(project, PEOPLE)

    def person(user):
        lease = take(project, user)
        while lease:
            _, lease = answer(lease, user, want_next=True)

    at_once([lambda user=user: person(user) for user in people])
    assert_every_slot_filled_once(project)


def test_abandons_expiry_skips_and_undo(project):
    """A fifth are abandoned, some skipped or undone, while another thread takes leases back."""
    services.update_project(project=project, labels_per_comparison=2)
    factories.add_texts(project, 30)
    people = factories.add_annotators(project, PEOPLE)
    working = threading.Semaphore(0)

    def person(user, chance):
        lease = take(project, user)
        while lease:
            luck = chance.random()
            if luck < 0.2:  # abandoned: its time runs out now
                abandon(lease)
                time.sleep(0.002)
                lease = take(project, user)
            elif luck < 0.25:
                services.skip_lease(lease_id=lease.pk, annotator=user, now=timezone.now())
                lease = take(project, user)
            else:
                judgement, lease = answer(lease, user, chance.choice([0, 1, "tie"]), want_next=True)
                if luck > 0.9:
                    services.undo_judgement(judgement_id=judgement.pk, annotator=user, now=timezone.now())
                    lease = take(project, user)
        working.release()

    def sweeper():
        done = 0
        while done < PEOPLE:
            services.reopen_expired_leases(now=timezone.now())
            done += working.acquire(timeout=0.01)

    at_once(
        [*(lambda user=user, i=i: person(user, random.Random(i)) for i, user in enumerate(people)), sweeper]
    )
    # Who left early may have left work behind that was in others' hands; two more people finish.
    for user in factories.add_annotators(project, 2):
        lease = take(project, user)
        while lease:
            _, lease = answer(lease, user, want_next=True)
    assert_every_slot_filled_once(project)


def test_two_ahead_in_a_race(project):
    """Everybody holds two at a time; the last comparisons are not lost to those who hold them."""
    factories.add_texts(project, 30)
    people = factories.add_annotators(project, 8)

    def person(user):
        first = take(project, user)
        while first:
            second = take(project, user, after=first)
            answer(first, user)
            first = second or take(project, user)

    at_once([lambda user=user: person(user) for user in people])
    assert_every_slot_filled_once(project)


def test_one_slot_one_winner(project):
    """An expired answer and a new lease race for the last slot, many times over."""
    people = factories.add_annotators(project, 2)
    for _ in range(10):
        (comparison,) = factories.add_texts(project, 1)
        late, other = people
        lease = take(project, late)
        abandon(lease)
        services.reopen_expired_leases(now=timezone.now())
        outcome = []

        def answer_late(lease=lease, late=late, outcome=outcome):
            try:
                answer(lease, late)
                outcome.append("late")
            except Conflict:
                outcome.append("refused")

        def take_it(other=other, outcome=outcome):
            taken = take(project, other)
            if taken:
                answer(taken, other)
                outcome.append("other")
            else:
                outcome.append("nothing")

        at_once([answer_late, take_it])
        assert sorted(outcome) in (["late", "nothing"], ["other", "refused"])
        assert comparison.judgements.standing().count() == 1


def test_a_doubled_request_is_stored_once(project, annotator):
    factories.add_texts(project, 40)
    lease = take(project, annotator)
    for _ in range(10):
        client_id, replies = uuid.uuid4(), []
        at_once(
            [
                lambda lease=lease, client_id=client_id, replies=replies: replies.append(
                    answer(lease, annotator, client_id=client_id, want_next=True)
                )
            ]
            * 4
        )
        assert len({(judgement.pk, following.pk) for judgement, following in replies}) == 1
        lease = replies[0][1]
    assert Judgement.objects.count() == 10


def test_a_doubled_tab_holds_one_lease(project, annotator):
    factories.add_texts(project, 10)
    leases = []
    at_once([lambda: leases.append(take(project, annotator).pk)] * 8)
    assert len(set(leases)) == 1


def test_a_locked_row_is_waited_for(project, annotator):
    """It is the only one left, and somebody holds its lock: "nothing is left" would be a lie."""
    (comparison,) = factories.add_texts(project, 1)
    locked, taken = threading.Event(), []

    def hold():
        with transaction.atomic():
            Comparison.objects.select_for_update(no_key=True).get(pk=comparison.pk)
            locked.set()
            time.sleep(0.3)
            assert not taken

    def person():
        locked.wait()
        taken.append(take(project, annotator))

    at_once([hold, person])
    assert taken[0].comparison_id == comparison.pk


def test_adding_while_others_reach_the_end(project):
    people = factories.add_annotators(project, 6)
    done = threading.Event()

    def add():
        for _ in range(12):
            factories.add_texts(project, 2)
        done.set()

    def person(user):
        while True:
            finished = done.is_set()
            lease = take(project, user)
            while lease:
                _, lease = answer(lease, user, want_next=True)
            if finished:
                return

    at_once([add, *(lambda user=user: person(user) for user in people)])
    assert_every_slot_filled_once(project)


def test_who_takes_never_waits_long_with_a_member_in_hand():
    """Somebody holds what candidates are read from and then wants the member, against the order: who
    takes lets go before Postgres has to break a deadlock, and starts over.
    """
    project = factories.make_project()
    factories.add_texts(project, 3)
    (person,) = factories.add_annotators(project, 1)
    is_held, found = threading.Event(), []

    def hold():
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE annotation_candidate IN ACCESS EXCLUSIVE MODE")
            is_held.set()
            time.sleep(0.2)  # the other has the member now and waits for the table
            cursor.execute(
                "SELECT id FROM annotation_member WHERE user_id = %s FOR NO KEY UPDATE", [person.pk]
            )

    def ask():
        is_held.wait()
        found.append(take(project, person))

    at_once([hold, ask])
    assert found[0].comparison.project_id == project.pk


@pytest.mark.parametrize("what", ["next_lease", "renew_lease", "submit_judgement", "undo_judgement"])
def test_a_place_held_for_longer_than_patience_lasts(project, annotator, what):
    """Giving up the wait for one's own place is not the caller's business: it starts over."""
    factories.add_texts(project, 3)
    judgement, lease = answer(take(project, annotator), annotator, want_next=True)
    held, result = threading.Event(), []
    do = {
        "next_lease": lambda: take(project, annotator),
        "renew_lease": lambda: services.renew_lease(
            lease_id=lease.pk, annotator=annotator, now=timezone.now()
        ),
        "submit_judgement": lambda: answer(lease, annotator),
        "undo_judgement": lambda: services.undo_judgement(
            judgement_id=judgement.pk, annotator=annotator, now=timezone.now()
        ),
    }[what]

    def hold():
        with transaction.atomic():
            Member.objects.select_for_update().get(project=project, user=annotator)
            held.set()
            time.sleep(0.8)

    def ask():
        assert held.wait(10)
        result.append(do())

    at_once([hold, ask])
    assert result
