"""Everything at once, on real connections: dropped lines, retries, undo, skips, leases that run out.

Hypothesis draws the project and how people behave; each person is a thread with a connection of its own that
keeps a ledger of what the server accepted. At the end every slot is filled exactly once and the ledgers and
the database tell the same story.
"""

import random
import threading
import time
import uuid
from collections import Counter
from datetime import timedelta

import pytest
from django.utils import timezone
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from annotation import services
from annotation.errors import Conflict
from annotation.models import AnnotatorGroup, Comparison, Judgement, Kind, Lease, Member, Project, Reservation
from tests.annotation import factories
from tests.annotation.test_races import at_once

pytestmark = pytest.mark.django_db(transaction=True)


class Person:
    """Works until nothing is left, and breaks off, repeats, takes back and skips as `chance` has it."""

    MISHAPS = ("disconnect", "disconnect", "disconnect", "answer_twice", "undo", "skip", "lose_reply")

    def __init__(self, project, user, seed, mishaps):
        self.project, self.user, self.mishaps = project, user, mishaps
        self.chance = random.Random(seed)
        self.accepted: dict[uuid.UUID, int] = {}  # client_id → judgement
        self.undone: set[int] = set()
        self.left: list[Lease] = []

    def work(self):
        while (lease := self.take()) is not None:
            if self.chance.random() < self.mishaps:
                getattr(self, self.chance.choice(self.MISHAPS))(lease)
            else:
                self.answer(lease)
        for lease in self.left:  # the line is back: what was left lying is sent after all
            self.answer(lease)

    def regret(self):
        """At the end, when all have passed by: an answer is taken back, and the comparison passed over."""
        standing = [pk for pk in self.accepted.values() if pk not in self.undone]
        if standing and self.chance.random() < self.mishaps:
            pk = self.chance.choice(standing)
            lease = services.undo_judgement(judgement_id=pk, annotator=self.user, now=timezone.now())
            self.undone.add(pk)
            self.skip(lease)

    def take(self):
        return services.next_lease(project=self.project, user=self.user, now=timezone.now())

    def answer(self, lease, client_id=None, **values):
        client_id = client_id or uuid.uuid4()
        choice = int(lease.id.hex[0], 16) % 2  # the same for a repeat
        try:
            judgement, following = services.submit_judgement(
                lease_id=lease.pk,
                annotator=self.user,
                client_id=client_id,
                choice=choice,
                now=timezone.now(),
                **values,
            )
        except Conflict:  # it came too late; nothing was stored
            assert not Judgement.objects.filter(client_id=client_id).exists()
            return None, None
        assert self.accepted.setdefault(client_id, judgement.pk) == judgement.pk
        return judgement, following

    def disconnect(self, lease):
        Lease.objects.filter(pk=lease.pk, state="open").update(
            expires_at=timezone.now() - timedelta(seconds=1)
        )
        if self.chance.random() < 0.5:
            self.left.append(lease)
        time.sleep(0.01)  # others go past it
        services.reopen_expired_leases(now=timezone.now(), project=self.project.pk)

    def answer_twice(self, lease):
        client_id = uuid.uuid4()
        first = self.answer(lease, client_id, want_next=True)
        if first[0] is not None:
            again = self.answer(lease, client_id, want_next=True)
            assert (again[0].pk, again[1] and again[1].pk) == (first[0].pk, first[1] and first[1].pk)

    def lose_reply(self, lease):
        """It was stored, but the reply got lost; something else is answered; then it is sent again."""
        client_id = uuid.uuid4()
        self.answer(lease, client_id)
        if (other := self.take()) is not None:
            self.answer(other)
        if client_id in self.accepted:
            self.answer(lease, client_id)

    def undo(self, lease):
        judgement, _ = self.answer(lease)
        if judgement is not None:
            services.undo_judgement(judgement_id=judgement.pk, annotator=self.user, now=timezone.now())
            self.undone.add(judgement.pk)

    def skip(self, lease):
        try:
            services.skip_lease(lease_id=lease.pk, annotator=self.user, reason="unclear", now=timezone.now())
        except Conflict:  # its time had run out
            lease.refresh_from_db()
            assert lease.state == "expired"


def make_project(*, labels, comparisons, strategy, groups, checks) -> Project:
    project = factories.make_project(by=factories.make_user("manager"))
    services.update_project(project=project, labels_per_comparison=labels)
    for name in range(groups):
        AnnotatorGroup.objects.create(project=project, name=f"group {name}", reserved_labels=1)
    services.use_strategy(project=project, strategy=strategy)
    if checks:
        Project.objects.filter(pk=project.pk).update(gold_rate=0.1, repeat_rate=0.1, repeat_distance=2)
        for comparison in services.add_comparisons(
            project=project, groups=factories.text_groups(5), needed=0
        ):
            services.set_gold_answer(
                project=project, comparison_id=comparison.pk, by=project.created_by, choice=0
            )
    services.add_comparisons(project=project, groups=factories.text_groups(comparisons, start=10))
    return Project.objects.get(pk=project.pk)


def everybody_works(project: Project, *, people: int, seed: int, mishaps: float) -> list[Person]:
    groups = [*project.annotator_groups.all(), None]
    persons = []
    for number, user in enumerate(factories.add_annotators(project, people)):
        Member.objects.filter(project=project, user=user).update(group=groups[number % len(groups)])
        persons.append(Person(project, user, seed * 1000 + number, mishaps))
    working = threading.Semaphore(0)

    def shift(person):
        try:
            person.work()
        finally:
            working.release()

    def sweeper():
        done = 0
        while done < people:
            services.reopen_expired_leases(now=timezone.now())
            done += working.acquire(timeout=0.02)

    at_once([*(lambda person=person: shift(person) for person in persons), sweeper])
    # Some left while others held what was then given back. They come again, and carefully.
    for person in persons:
        person.regret()
    for person in persons:
        person.mishaps = 0.0
        person.work()
        assert not open_for(person), "somebody was told that nothing is left, and it was not true"
    # What is still open was skipped or answered by all who may have it: new people of every group finish.
    for group in groups:
        for user in factories.add_annotators(project, project.labels_per_comparison):
            Member.objects.filter(project=project, user=user).update(group=group)
            persons.append(finisher := Person(project, user, seed, 0.0))
            finisher.work()
    return persons


def open_for(person: Person) -> list[int]:
    """Comparisons with a slot that this person could fill, found without the queue's own queries."""
    group = Member.objects.get(project=person.project, user=person.user).group_id
    had = Lease.objects.filter(annotator=person.user, state__in=Lease.HAD)
    rows = Comparison.objects.filter(project=person.project).exclude(leases__in=had)
    return [
        comparison.pk
        for comparison in rows.prefetch_related("reservations")
        if comparison.open_slots > comparison.reserved_open
        or any(one.group_id == group and one.open_slots for one in comparison.reservations.all())
    ]


def assert_all_is_well(project: Project, persons: list[Person]) -> None:
    judgements = Judgement.objects.filter(comparison__project=project)
    stored = dict(judgements.values_list("client_id", "pk"))
    told = {client_id: pk for person in persons for client_id, pk in person.accepted.items()}
    assert stored == told  # each accepted judgement is there once, and nothing else is
    undone = set().union(*(person.undone for person in persons))
    assert set(judgements.exclude(undone_at=None).values_list("pk", flat=True)) == undone
    standing = judgements.standing()
    once = Counter(standing.values_list("comparison", "annotator", "kind"))
    assert max(once.values()) == 1
    assert not Lease.objects.filter(comparison__project=project, state="open").exists()
    regular = Counter(standing.filter(kind=Kind.REGULAR).values_list("comparison", flat=True))
    slots: dict[int, list[int]] = {}
    judged = Lease.objects.filter(comparison__project=project, state="judged", kind=Kind.REGULAR)
    for comparison, slot in judged.values_list("comparison", "slot"):
        slots.setdefault(comparison, []).append(slot)
    for comparison in Comparison.objects.filter(project=project):
        assert (comparison.open_slots, comparison.reserved_open) == (0, 0)
        assert regular[comparison.pk] == comparison.needed
        assert sorted(slots.get(comparison.pk, [])) == list(range(comparison.needed))
    by_group = Counter(judged.exclude(reserved_for=None).values_list("comparison", "reserved_for"))
    for reservation in Reservation.objects.filter(comparison__project=project):
        assert reservation.open_slots == 0
        assert by_group[reservation.comparison_id, reservation.group_id] == reservation.needed
    mismatched = judged.exclude(reserved_for=None).exclude(judgement__group=None)
    for reserved_for, group in mismatched.values_list("reserved_for", "judgement__group"):
        assert reserved_for == group


projects = st.fixed_dictionaries(
    {
        "labels": st.integers(2, 4),
        "comparisons": st.integers(6, 12),
        "strategy": st.sampled_from(["order", "fewest", "random", "priority"]),
        "groups": st.integers(0, 2),
        "checks": st.booleans(),
    }
)
QUIET = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow],
    "print_blob": False,
}


ROUGH = {"labels": 3, "comparisons": 12, "groups": 0, "checks": False}


@settings(max_examples=4, **QUIET)
@example(values=ROUGH | {"strategy": "order"}, seed=1, mishaps=0.7)
@example(values=ROUGH | {"strategy": "fewest", "groups": 2}, seed=2, mishaps=0.7)
@given(values=projects, seed=st.integers(0, 2**16), mishaps=st.sampled_from([0.3, 0.5, 0.7]))
def test_every_slot_is_filled_exactly_once(values, seed, mishaps):
    project = make_project(**values)
    assert_all_is_well(project, everybody_works(project, people=16, seed=seed, mishaps=mishaps))


@pytest.mark.slow
@settings(max_examples=12, **QUIET)
@given(values=projects, seed=st.integers(0, 2**16), mishaps=st.sampled_from([0.3, 0.5, 0.7]))
def test_with_64_annotators(values, seed, mishaps):
    project = make_project(**values | {"comparisons": 5 * values["comparisons"]})
    assert_all_is_well(project, everybody_works(project, people=64, seed=seed, mishaps=mishaps))
