"""How many slots a project has, as the database's triggers add it up."""

import pytest
from django.db.models import Sum

from annotation import services
from annotation.models import Comparison, Member, Project, SlotTally
from annotation.services.slots import fold_slots
from tests.annotation import factories
from tests.annotation.test_queue import NOW, answer, take

pytestmark = pytest.mark.django_db


def tally(project):
    found = SlotTally.objects.filter(project=project).aggregate(wanted=Sum("wanted"), open=Sum("open"))
    rows = Comparison.objects.filter(project=project).aggregate(wanted=Sum("needed"), open=Sum("open_slots"))
    assert found == rows
    return found["wanted"], found["open"]


def test_the_tally_follows_every_change(project, annotator):
    """Three comparisons with two slots; one taken, one given back, one deleted."""
    services.update_project(project=project, labels_per_comparison=2)
    comparisons = factories.add_texts(project, 3)
    assert tally(project) == (6, 6)
    lease = take(project, annotator)
    assert tally(project) == (6, 5)
    services.skip_lease(lease_id=lease.pk, annotator=annotator, now=NOW)
    answer(take(project, annotator), annotator)
    assert tally(project) == (6, 5)
    services.delete_comparison(comparison=comparisons[2])
    assert tally(project) == (4, 3)
    assert fold_slots() == 1
    assert SlotTally.objects.filter(project=project).count() == 1
    assert tally(project) == (4, 3)
    assert fold_slots() == 0


def test_folding_keeps_projects_apart_and_forgets_those_that_are_gone(project):
    factories.add_texts(project, 2)
    factories.add_texts(project, 1)
    other = factories.make_project()
    factories.add_texts(other, 4)
    SlotTally.objects.create(project_id=other.pk + 1000, wanted=1, open=1)
    SlotTally.objects.create(project_id=other.pk + 1000, wanted=1, open=1)
    fold_slots()
    assert tally(project) == (3, 3)
    assert tally(other) == (4, 4)
    assert not SlotTally.objects.exclude(project__in=Project.objects.all()).exists()


def test_a_reopened_slot_takes_back_only_who_may_get_it(project, annotator):
    """Three people; the first has judged the comparison that the second skips, the third has not."""
    services.update_project(project=project, labels_per_comparison=2)
    factories.add_texts(project, 4)
    second, third = factories.add_annotators(project, 2)
    for _ in range(3):
        answer(take(project, annotator), annotator)
    lease = take(project, second)
    assert lease.comparison.rank == 1
    answer(take(project, third), third)
    place = {member.user: member.frontier for member in Member.objects.filter(project=project)}
    assert (place[annotator], place[third]) == (4, 3)
    services.skip_lease(lease_id=lease.pk, annotator=second, now=NOW)
    place = {member.user: member.frontier for member in Member.objects.filter(project=project)}
    assert (place[annotator], place[third]) == (4, 1)
    assert take(project, third).comparison.rank == 1
