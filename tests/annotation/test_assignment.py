"""Limits, consent, pausing, setting aside, reviews and skipped comparisons."""

from datetime import timedelta

import pytest
from django.utils import timezone

from annotation import services
from annotation.errors import Blocked, Conflict, Invalid, NotAllowed
from annotation.models import Comparison, Consent, Judgement, Kind, Lease, Member, SetAside
from tests.annotation import factories
from tests.annotation.test_queue import NOW, answer, take

pytestmark = pytest.mark.django_db


def member(user):
    return Member.objects.get(user=user)


# Limits


def test_quota(project, annotator):
    services.update_assignment(project=project, quota=3)
    factories.add_texts(project, 10)
    lease, given = take(project, annotator), 0
    while lease:
        judgement, lease = answer(lease, annotator, want_next=True)
        given += 1
    assert (given, member(annotator).answered) == (3, 3)
    project.refresh_from_db()
    stand = services.standing(project=project, user=annotator, now=NOW)
    assert (stand["blocked"], stand["answered"], stand["quota"]) == ("quota", 3, 3)
    services.undo_judgement(judgement_id=judgement.pk, annotator=annotator, now=NOW)
    assert member(annotator).answered == 2
    services.update_member(project=project, user=annotator.pk, quota=5, now=NOW)
    assert take(project, annotator, after=take(project, annotator)) is not None


def test_what_is_in_hand_counts_against_a_quota(project, annotator):
    services.update_assignment(project=project, quota=1)
    factories.add_texts(project, 5)
    first = take(project, annotator)
    assert take(project, annotator, after=first) is None
    assert take(project, annotator).pk == first.pk


def test_a_daily_cap_ends_with_the_day(project, annotator):
    services.update_assignment(project=project, daily_cap=2)
    factories.add_texts(project, 10)
    morning = timezone.make_aware(timezone.datetime(2026, 3, 1, 9))
    for minute in range(2):
        now = morning + timedelta(minutes=minute)
        answer(take(project, annotator, now=now), annotator, now=now)
    assert take(project, annotator, now=morning + timedelta(hours=14)) is None
    project.refresh_from_db()
    stand = services.standing(project=project, user=annotator, now=morning)
    assert (stand["blocked"], stand["answered_today"], stand["daily_cap"]) == ("daily_cap", 2, 2)
    assert take(project, annotator, now=morning + timedelta(hours=15)) is not None
    services.update_member(project=project, user=annotator.pk, daily_cap=3, now=NOW)


# Consent


def test_consent_comes_before_the_first_task(project, annotator):
    factories.add_texts(project, 2)
    text = services.publish_consent_text(project=project, text="We keep your answers.", by=project.created_by)
    with pytest.raises(Blocked, match="say whether you agree") as refusal:
        take(project, annotator)
    assert refusal.value.code == "consent"
    services.give_consent(project=project, user=annotator, version=1, now=NOW)
    services.give_consent(project=project, user=annotator, version=1, now=NOW + timedelta(days=1))
    given = Consent.objects.get()
    assert (given.user, given.text, given.given_at) == (annotator, text, NOW)
    assert take(project, annotator) is not None


def test_a_new_version_is_asked_for_again_and_the_old_one_is_kept(project, annotator):
    factories.add_texts(project, 2)
    publish = {"project": project, "by": project.created_by}
    services.publish_consent_text(**publish, text="One.")
    services.give_consent(project=project, user=annotator, version=1, now=NOW)
    lease = take(project, annotator)
    assert services.publish_consent_text(**publish, text="One.").version == 1
    assert services.publish_consent_text(**publish, text="Two.").version == 2
    answer(lease, annotator)  # begun under the old text; nothing is lost
    with pytest.raises(Blocked):
        take(project, annotator)
    with pytest.raises(Conflict, match="has changed"):
        services.give_consent(project=project, user=annotator, version=1, now=NOW)
    assert services.publish_consent_text(**publish, text="") is None
    assert take(project, annotator) is not None
    assert services.publish_consent_text(**publish, text="Two.").version == 3
    assert list(project.consent_texts.values_list("text", flat=True)) == ["One.", "Two.", "Two."]


# Pausing and setting aside


def test_a_paused_member_gives_back_and_gets_nothing(project, annotator):
    (comparison,) = factories.add_texts(project, 1)
    lease = take(project, annotator)
    services.pause_member(project=project, user=annotator.pk, reason="too fast", now=NOW)
    comparison.refresh_from_db()
    assert comparison.open_slots == 1
    with pytest.raises(Blocked, match="is paused"):
        take(project, annotator)
    with pytest.raises(Blocked, match="is paused"):
        answer(lease, annotator)
    assert member(annotator).paused_reason == "too fast"
    services.resume_member(project=project, user=annotator.pk)
    assert take(project, annotator).comparison_id == comparison.pk


def set_aside(project, annotator, **values):
    values = {"reason": "always the first", "by": project.created_by, "now": NOW} | values
    return services.set_aside(project=project, user=annotator.pk, **values)


def test_setting_aside_opens_the_slots_for_others(project, annotator):
    comparisons = factories.add_texts(project, 3)
    for _ in comparisons:
        answer(take(project, annotator), annotator)
    (other,) = factories.add_annotators(project, 1)
    assert take(project, other) is None
    record = set_aside(project, annotator)
    assert (record.count, record.reason) == (3, "always the first")
    assert Judgement.objects.standing().count() == 0
    assert Judgement.objects.filter(set_aside=record).count() == 3
    assert take(project, annotator) is None  # what they had does not come to them again
    assert take(project, other).comparison_id == comparisons[0].pk
    judgement = Judgement.objects.first()
    with pytest.raises(Conflict, match="set aside by a manager"):
        services.undo_judgement(judgement_id=judgement.pk, annotator=annotator, now=NOW)


def test_restoring_takes_open_slots_back_and_adds_one_where_there_is_none(project, annotator):
    first, second = factories.add_texts(project, 2)
    for _ in range(2):
        answer(take(project, annotator), annotator)
    record = set_aside(project, annotator)
    (other,) = factories.add_annotators(project, 1)
    answer(take(project, other), other)
    restored = services.restore(record=record, by=project.created_by, now=NOW)
    assert (restored.restored_by, restored.restored_at) == (project.created_by, NOW)
    for comparison, needed in ((first, 2), (second, 1)):
        comparison.refresh_from_db()
        assert (comparison.needed, comparison.open_slots) == (needed, 0)
        assert comparison.judgements.standing().count() == needed
    assert Lease.objects.filter(state="judged").count() == 3
    with pytest.raises(Conflict, match="restored already"):
        services.restore(record=record, by=project.created_by, now=NOW)


def test_setting_aside_from_a_moment_on_and_not_the_evidence(project, annotator):
    services.update_assignment(project=project, gold_rate=0.5)
    for comparison in factories.add_texts(project, 4, needed=0):
        services.set_gold_answer(
            project=project, comparison_id=comparison.pk, by=project.created_by, choice=0
        )
    factories.add_texts(project, 6)
    for minute in range(8):
        now = NOW + timedelta(minutes=minute)
        answer(take(project, annotator, now=now), annotator, now=now)
    since = NOW + timedelta(minutes=4)
    set_aside(project, annotator, since=since)
    gone = Judgement.objects.exclude(set_aside=None)
    assert gone.count() == Judgement.objects.filter(kind=Kind.REGULAR, created_at__gte=since).count() > 0
    assert not gone.exclude(kind=Kind.REGULAR).exists()
    assert not gone.filter(created_at__lt=since).exists()


def test_a_reserved_slot_is_set_aside_for_its_group(project, annotator):
    group = services.save_group(project=project, name="de", reserved_labels=1)
    services.update_member(project=project, user=annotator.pk, group=group, now=NOW)
    (comparison,) = factories.add_texts(project, 1)
    answer(take(project, annotator), annotator)
    set_aside(project, annotator)
    comparison.refresh_from_db()
    assert (comparison.open_slots, comparison.reserved_open) == (1, 1)


def test_judgements_know_the_group_of_their_annotator(project, annotator):
    group = services.save_group(project=project, name="de", attributes={"language": "de"})
    services.update_member(project=project, user=annotator.pk, group=group, now=NOW)
    factories.add_texts(project, 1)
    answer(take(project, annotator), annotator)
    (row,) = services.judged_groups(project=project, before=NOW + timedelta(days=1), filters={})
    assert row["judgements"][0]["annotator_group"] == "de"


def test_a_reason_is_needed(project, annotator):
    with pytest.raises(Invalid, match="Say why"):
        set_aside(project, annotator, reason=" ")
    assert not SetAside.objects.exists()


# Reviews


@pytest.fixture
def disputed(project):
    """Three comparisons judged by two people each, who disagree about the second."""
    services.update_project(project=project, labels_per_comparison=2)
    comparisons = factories.add_texts(project, 3)
    for user, answers in zip(factories.add_annotators(project, 2), ([0, 0, 1], [0, 1, 1]), strict=True):
        for choice in answers:
            lease = take(project, user)
            answer(lease, user, lease.order.index(choice))
    return comparisons[1]


def test_a_reviewer_sees_what_was_said_and_decides(project, disputed):
    reviewer = factories.make_user(username="rita")
    services.add_member(project=project, username="rita", role="reviewer", by=project.created_by)
    assert services.reviews_waiting(project) == 1
    lease = services.next_review(project=project, user=reviewer, now=NOW)
    assert (lease.comparison_id, lease.kind, lease.slot) == (disputed.pk, Kind.REVIEW, None)
    assert services.next_review(project=project, user=reviewer, now=NOW).pk == lease.pk
    shown = services.present(lease)["judgements"]
    assert [one["annotator"] for one in shown] == [1, 2]
    assert sorted(one["choice"] for one in shown) == [0, 1]
    assert "user" not in str(shown)
    judgement, following = answer(lease, reviewer, lease.order.index(1), want_next=True)
    assert (judgement.kind, judgement.choice, following) == (Kind.REVIEW, 1, None)
    assert services.reviews_waiting(project) == 0
    assert member(reviewer).answered == 0


def test_two_reviewers_do_not_get_the_same(project, disputed):
    other = factories.make_user(username="rita")
    services.add_member(project=project, username="rita", role="reviewer", by=project.created_by)
    assert services.next_review(project=project, user=other, now=NOW) is not None
    assert services.next_review(project=project, user=project.created_by, now=NOW) is None


def test_who_judged_it_does_not_review_it(project, disputed):
    judge = disputed.judgements.first().annotator
    services.add_member(project=project, username=judge.username, role="reviewer", by=project.created_by)
    assert services.next_review(project=project, user=judge, now=NOW) is None
    assert services.next_review(project=project, user=project.created_by, now=NOW) is not None


def test_annotators_do_not_review(project, disputed, annotator):
    with pytest.raises(NotAllowed):
        services.next_review(project=project, user=annotator, now=NOW)


def test_a_review_in_hand_does_not_come_as_work(project, disputed):
    manager = project.created_by
    services.next_review(project=project, user=manager, now=NOW)
    assert take(project, manager) is None


def test_a_review_overrules_in_what_is_learned(project, disputed):
    manager = project.created_by
    lease = services.next_review(project=project, user=manager, now=NOW)
    answer(lease, manager, lease.order.index(1))
    ask = {"project": project, "before": NOW + timedelta(days=1)}

    def said(**filters):
        rows = services.judged_groups(**ask, filters=filters)
        found = next(row for row in rows if row["prompt"] == disputed.prompt)
        return sorted((one["kind"], one["choice"]) for one in found["judgements"])

    assert said() == [("review", 1)]
    assert said(kinds=["regular"]) == [("regular", 0), ("regular", 1)]
    assert said(reviews="beside") == [("regular", 0), ("regular", 1), ("review", 1)]
    services.update_assignment(project=project, review_overrules=False)
    ask["project"].refresh_from_db()
    assert said() == [("regular", 0), ("regular", 1), ("review", 1)]


def test_gold_repeats_and_tests_are_not_learned_from(project, annotator):
    services.update_assignment(project=project, gold_rate=0.25, repeat_rate=0.25, repeat_distance=1)
    gold = factories.add_texts(project, 3, needed=0)
    for comparison in gold:
        services.set_gold_answer(
            project=project, comparison_id=comparison.pk, by=project.created_by, choice=0
        )
    factories.add_texts(project, 12)
    lease = take(project, annotator)
    while lease:
        _, lease = answer(lease, annotator, want_next=True)
    assert {"gold", "repeat"} < set(Judgement.objects.values_list("kind", flat=True))
    ask = {"project": project, "before": NOW + timedelta(days=1)}
    rows = list(services.judged_groups(**ask, filters={}))
    assert {one["kind"] for row in rows for one in row["judgements"]} == {"regular"}
    assert len(rows) == 12
    asked = services.judged_groups(**ask, filters={"kinds": ["gold"]})
    assert {one["kind"] for row in asked for one in row["judgements"]} == {"gold"}


def test_settings_that_cannot_be(project):
    for values, field in (
        ({"queue_strategy": "best"}, "queue_strategy"),
        ({"gold_rate": 0.6}, "gold_rate"),
        ({"gold_rate": float("nan")}, "gold_rate"),
        ({"gold_rate": 0.3, "repeat_rate": 0.3}, "repeat_rate"),
        ({"test_attempts": 0}, "test_attempts"),
        ({"skip_reasons": ["x" * 201]}, "skip_reasons"),
        ({"name": "x"}, "name"),
    ):
        with pytest.raises(Invalid) as refusal:
            services.update_assignment(project=project, **values)
        assert list(refusal.value.errors) == [field]
    changed = services.update_assignment(project=project, skip_reasons=[" not my language ", " "])
    assert changed.skip_reasons == ["not my language"]
    assert Comparison.objects.count() == 0
