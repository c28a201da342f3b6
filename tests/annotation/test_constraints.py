"""What the database refuses, whoever asks: each constraint on the rows that judging is made of.

The locks of the queue see to it that nobody asks, so that no race shows that one of these is missing.
"""

import copy
import uuid
from types import SimpleNamespace

import pytest
from django.db import IntegrityError, transaction
from django.db.models import F

from annotation.models import (
    AnnotatorGroup,
    Candidate,
    Comparison,
    GoldAnswer,
    Judgement,
    Lease,
    Member,
    QualificationAttempt,
    Reservation,
)
from tests.annotation import factories

pytestmark = pytest.mark.django_db
MODELS = (Comparison, Candidate, Reservation, Lease, Judgement, Member, AnnotatorGroup, GoldAnswer)


def again(row, **changes):
    """Insert the row once more, under another key, with these changes."""
    other = copy.copy(row)
    other._state = copy.copy(row._state)
    other.pk, other._state.adding = uuid.uuid4() if isinstance(row, Lease) else None, True
    for name, value in changes.items():
        setattr(other, name, value)
    other.save(force_insert=True)


def change(row, **values):
    type(row)._default_manager.filter(pk=row.pk).update(**values)


CASES = {
    "comparison_rank_once": lambda w: again(w.comparison),
    "comparison_open_slots_within_needed": lambda w: change(w.comparison, open_slots=F("needed") + 1),
    "comparison_reserved_within_open": lambda w: change(w.comparison, reserved_open=F("open_slots") + 1),
    "candidate_position_once": lambda w: again(w.candidate),
    "candidate_text_or_image": lambda w: change(w.candidate, text=None),
    "reservation_once": lambda w: again(w.reservation),
    "reservation_open_slots_within_needed": lambda w: change(w.reservation, open_slots=F("needed") + 1),
    "lease_one_each": lambda w: again(w.lease, slot=w.lease.slot + 1),
    "lease_slot_once": lambda w: again(w.lease, annotator=w.other),
    "lease_slot_only_if_regular": lambda w: again(w.lease, annotator=w.other, slot=None),
    "judgement_one_each": lambda w: again(w.judgement, lease=None, client_id=uuid.uuid4()),
    "judgement_client_id_once": lambda w: again(w.judgement, lease=None, comparison=w.next),
    "judgement_strength_1_to_3": lambda w: change(w.judgement, strength=4),
    "member_once": lambda w: again(w.member),
    "member_role_known": lambda w: change(w.member, role="friend"),
    "annotator_group_name_once": lambda w: again(w.group),
    "gold_answer_says_something": lambda w: change(w.gold, choice=None),
}


@pytest.fixture
def world(project, annotator):
    """One comparison that was judged, with a slot reserved for a group, and one behind it."""
    project.labels_per_comparison = 3
    project.save()
    group = AnnotatorGroup.objects.create(project=project, name="experts", reserved_labels=1)
    comparison, following = factories.add_texts(project, 2)
    judgement = factories.judge(annotator, project)
    gold = GoldAnswer.objects.create(
        project=project, comparison=following, choice=0, created_by=project.created_by
    )
    comparison.refresh_from_db()
    return SimpleNamespace(
        comparison=comparison,
        next=following,
        candidate=comparison.candidates.get(index=0),
        reservation=comparison.reservations.get(group=group),
        lease=judgement.lease,
        judgement=judgement,
        member=Member.objects.get(user=annotator),
        group=group,
        gold=gold,
        other=factories.make_user(),
    )


@pytest.mark.parametrize("name", CASES)
def test_the_database_refuses(world, name):
    with pytest.raises(IntegrityError, match=name), transaction.atomic():
        CASES[name](world)


def test_every_constraint_has_its_case():
    assert {constraint.name for model in MODELS for constraint in model._meta.constraints} == CASES.keys()


def test_an_attempt_has_one_number_and_nobody_is_at_two(project, annotator):
    values = {"project": project, "annotator": annotator, "started_at": factories.NOW}
    QualificationAttempt.objects.create(number=1, **values)
    with pytest.raises(IntegrityError, match="attempt_one_at_a_time"), transaction.atomic():
        QualificationAttempt.objects.create(number=2, **values)
    with pytest.raises(IntegrityError, match="attempt_number_once"), transaction.atomic():
        QualificationAttempt.objects.create(number=1, finished_at=factories.NOW, **values)
