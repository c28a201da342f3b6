"""What comes first: by order, fewest labels, at random, by priority; and slots kept for groups."""

import pytest

from annotation import services
from annotation.errors import Conflict, Invalid
from annotation.models import Comparison, Lease, Member, Project, Reservation
from annotation.services.strategies import HIGHEST, STEP
from tests.annotation import factories
from tests.annotation.test_queue import NOW, answer, expire, take

pytestmark = pytest.mark.django_db


def use(project, strategy):
    services.update_assignment(project=project, queue_strategy=strategy)
    project.refresh_from_db()


def prompts(project, user):
    """All that this person gets, in its order."""
    lease, seen = take(project, user), []
    while lease:
        seen.append(lease.comparison.prompt)
        _, lease = answer(lease, user, want_next=True)
    return seen


def keys(project):
    return list(
        Comparison.objects.filter(project=project).order_by("rank").values_list("queue_key", flat=True)
    )


def test_fewest_labels_first(project, annotator):
    """Two have a judgement each; the two without come first, and then nobody is ahead."""
    services.update_project(project=project, labels_per_comparison=2)
    use(project, "fewest")
    comparisons = factories.add_texts(project, 4)
    first, second = factories.add_annotators(project, 2)
    answer(take(project, first), first)
    answer(take(project, first), first)
    assert keys(project) == [STEP + 1, STEP + 2, 3, 4]
    assert prompts(project, second) == [f"Question {i}?" for i in (2, 3, 0, 1)]
    assert keys(project) == [2 * STEP + 1, 2 * STEP + 2, STEP + 3, STEP + 4]
    assert prompts(project, annotator) == [comparisons[2].prompt, comparisons[3].prompt]


def test_fewest_labels_counts_those_that_came_with_the_file(project, annotator):
    services.update_project(project=project, labels_per_comparison=2)
    use(project, "fewest")
    judged = factories.text_groups(1)[0] | {"judgements": [{"annotator": "x", "choice": 0}]}
    services.add_comparisons(project=project, groups=[judged, *factories.text_groups(1, start=1)])
    assert keys(project) == [STEP + 1, 2]
    use(project, "order")
    use(project, "fewest")
    assert keys(project) == [STEP + 1, 2]


def test_a_reopened_slot_takes_its_place_back(project, annotator):
    services.update_project(project=project, labels_per_comparison=2)
    use(project, "fewest")
    factories.add_texts(project, 2)
    lease = take(project, annotator)
    assert keys(project) == [STEP + 1, 2]
    expire(lease)
    services.reopen_expired_leases(now=NOW)
    assert keys(project) == [1, 2]


def test_random_order_is_not_the_order(project, annotator):
    use(project, "random")
    factories.add_texts(project, 30)
    seen = prompts(project, annotator)
    assert sorted(seen) == sorted(f"Question {i}?" for i in range(30))
    assert seen != [f"Question {i}?" for i in range(30)]  # fails by chance once in 30!


def test_what_is_added_among_others_is_found(project, annotator):
    """Everything was judged; new comparisons with smaller keys come nevertheless."""
    use(project, "random")
    factories.add_texts(project, 5)
    prompts(project, annotator)
    assert take(project, annotator) is None
    services.add_comparisons(project=project, groups=factories.text_groups(5, start=5))
    assert sorted(prompts(project, annotator)) == [f"Question {i}?" for i in range(5, 10)]


def test_by_priority(project, annotator):
    use(project, "priority")
    comparisons = factories.add_texts(project, 4)
    lease = take(project, annotator)
    assert lease.comparison_id == comparisons[0].pk
    wanted = {comparisons[3].pk: 7, comparisons[2].pk: -1}
    assert services.set_priorities(project=project, priorities=wanted) == 2
    assert keys(project)[3] == (HIGHEST - 7) * STEP + 4
    _, following = answer(lease, annotator, want_next=True)
    order = []
    while following:
        order.append(following.comparison_id)
        _, following = answer(following, annotator, want_next=True)
    assert order == [comparisons[i].pk for i in (3, 1, 2)]


def test_a_priority_brings_back_who_had_passed(project, annotator):
    """Their frontier was behind it: the comparison was in another's hands when they came by."""
    use(project, "priority")
    (first, second) = factories.add_texts(project, 2)
    (other,) = factories.add_annotators(project, 1)
    held = take(project, other)
    assert take(project, annotator).comparison_id == second.pk
    services.set_priorities(project=project, priorities={first.pk: 3})
    assert Member.objects.get(user=annotator).frontier <= (HIGHEST - 3) * STEP + first.rank
    services.skip_lease(lease_id=held.pk, annotator=other, now=NOW)
    answer(take(project, annotator), annotator)
    assert take(project, annotator).comparison_id == first.pk


def test_a_priority_is_kept_under_another_strategy(project):
    (comparison,) = factories.add_texts(project, 1)
    services.set_priorities(project=project, priorities={comparison.pk: 5})
    assert keys(project) == [1]
    use(project, "priority")
    assert keys(project) == [(HIGHEST - 5) * STEP + 1]


def test_priorities_that_cannot_be(project):
    (comparison,) = factories.add_texts(project, 1)
    elsewhere = factories.add_texts(factories.make_project(), 1)[0]
    with pytest.raises(Invalid, match="not within"):
        services.set_priorities(project=project, priorities={comparison.pk: 2**15})
    with pytest.raises(Invalid, match="no comparison"):
        services.set_priorities(project=project, priorities={elsewhere.pk: 1})


# Slots for groups


@pytest.fixture
def groups(project):
    """Three judgements each: one from German readers, one from French ones, one from anybody."""
    services.update_project(project=project, labels_per_comparison=3)
    return [services.save_group(project=project, name=name, reserved_labels=1) for name in ("de", "fr")]


def join(project, user, group):
    services.update_member(project=project, user=user.pk, group=group, now=NOW)


def test_a_label_from_each_group(project, groups):
    factories.add_texts(project, 3)
    people = factories.add_annotators(project, 6)
    for user, group in zip(people, [groups[0], groups[0], groups[0], groups[1], None, None], strict=True):
        join(project, user, group)
    assert [len(prompts(project, user)) for user in people] == [3, 3, 0, 3, 0, 0]
    for comparison in Comparison.objects.all():
        reserved = comparison.leases.values_list("annotator", "reserved_for")
        expected = [(people[0].pk, groups[0].pk), (people[1].pk, None), (people[3].pk, groups[1].pk)]
        assert sorted(reserved) == sorted(expected)
        assert (comparison.open_slots, comparison.reserved_open) == (0, 0)
    assert set(Reservation.objects.values_list("open_slots", flat=True)) == {0}


def test_who_is_in_no_group_takes_only_what_is_anybodys(project, groups, annotator):
    factories.add_texts(project, 2)
    (other,) = factories.add_annotators(project, 1)
    assert len(prompts(project, annotator)) == 2
    assert take(project, other) is None


def test_a_reserved_slot_comes_back_to_its_group(project, groups, annotator):
    (comparison,) = factories.add_texts(project, 1)
    join(project, annotator, groups[0])
    lease = take(project, annotator)
    assert lease.reserved_for_id == groups[0].pk
    services.skip_lease(lease_id=lease.pk, annotator=annotator, now=NOW)
    comparison.refresh_from_db()
    assert (comparison.open_slots, comparison.reserved_open) == (3, 2)
    assert Reservation.objects.get(group=groups[0]).open_slots == 1


def test_a_late_answer_takes_a_reserved_slot_again(project, groups, annotator):
    (comparison,) = factories.add_texts(project, 1)
    join(project, annotator, groups[0])
    lease = take(project, annotator)
    expire(lease)
    services.reopen_expired_leases(now=NOW)
    answer(lease, annotator)
    comparison.refresh_from_db()
    assert (comparison.open_slots, comparison.reserved_open) == (2, 1)
    assert Lease.objects.get(pk=lease.pk).reserved_for == groups[0]


def test_a_late_answer_finds_only_slots_of_other_groups(project, groups, annotator):
    factories.add_texts(project, 1)
    lease = take(project, annotator)  # anybody's
    expire(lease)
    (other,) = factories.add_annotators(project, 1)
    services.reopen_expired_leases(now=NOW)
    take(project, other)
    with pytest.raises(Conflict, match="others have taken"):
        answer(lease, annotator)


def test_groups_reserve_no_more_than_there_is(project, groups):
    with pytest.raises(Invalid, match="would reserve 4 judgements, of 3"):
        services.save_group(project=project, name="es", reserved_labels=2)
    with pytest.raises(Invalid, match="of this name"):
        services.save_group(project=project, name="de")
    with pytest.raises(Invalid, match="plain values"):
        services.save_group(project=project, name="es", attributes={"a": [1]})


def test_a_dissolved_groups_slots_are_anybodys(project, groups):
    (comparison,) = factories.add_texts(project, 1)
    one, two = factories.add_annotators(project, 2)
    assert take(project, one) is not None
    assert take(project, two) is None
    services.remove_group(project=project, group=groups[0])
    assert take(project, two) is not None
    comparison.refresh_from_db()
    assert (comparison.open_slots, comparison.reserved_open) == (1, 1)


def test_another_strategy_orders_reservations_too(project, groups, annotator):
    factories.add_texts(project, 3)
    join(project, annotator, groups[0])
    answer(take(project, annotator), annotator)
    use(project, "fewest")
    found = Reservation.objects.filter(group=groups[0]).order_by("comparison__rank")
    assert list(found.values_list("queue_key", flat=True)) == [STEP + 1, 2, 3]
    use(Project.objects.get(pk=project.pk), "order")
    assert list(found.values_list("queue_key", flat=True)) == [1, 2, 3]
