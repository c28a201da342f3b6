"""Gold questions, repeats and the test before the first work: when, which, and that nothing tells."""

import json
import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from annotation import services
from annotation.errors import Conflict, Invalid, NotFound
from annotation.models import Comparison, GoldAnswer, Judgement, Kind, Lease, Member, Project
from annotation.services import checks
from tests.annotation import factories
from tests.annotation.conftest import api_client
from tests.annotation.test_queue import NOW, answer, expire, take

pytestmark = pytest.mark.django_db


def add_gold(project, n, *, choice=0, purpose="gold"):
    found = factories.add_texts(project, n, needed=0)
    for comparison in found:
        services.set_gold_answer(
            project=project,
            comparison_id=comparison.pk,
            by=project.created_by,
            choice=choice,
            purpose=purpose,
        )
    return found


def work(project, user, most=1000):
    """The kinds of what this person gets, in its order."""
    lease, kinds = take(project, user), []
    while lease and len(kinds) < most:
        kinds.append(Lease.objects.get(pk=lease.pk).kind)
        now = NOW + timedelta(seconds=len(kinds))
        _, lease = answer(lease, user, want_next=True, now=now)
    return kinds


def places(user, project, n=2000):
    """At which numbers a check is due, and of which kind."""
    member = Member(user_id=user, project=project)
    found = {}
    for member.served in range(n):
        if (kind := checks.kind_due(member)) is not None:
            found[member.served] = kind
    return found


@pytest.mark.parametrize(("gold", "repeat"), [(0.1, 0.0), (0.0, 0.05), (0.2, 0.1), (0.25, 0.25)])
def test_as_many_checks_as_asked_for(gold, repeat):
    """One in each stretch of 1 / rate: of 2,000 exactly 2,000 · rate, give or take one at the ends."""
    project = Project(pk=1, gold_rate=gold, repeat_rate=repeat)
    found = list(places(7, project).values())
    assert abs(found.count(Kind.GOLD) - 2000 * gold) <= 2
    assert abs(found.count(Kind.REPEAT) - 2000 * repeat) <= 2


def test_the_places_are_steady_and_cannot_be_guessed(settings):
    project = Project(pk=1, gold_rate=0.1, repeat_rate=0.0)
    mine = places(7, project)
    assert places(7, project) == mine
    assert places(8, project) != mine
    gaps = {after - before for before, after in zip(list(mine), list(mine)[1:], strict=False)}
    assert len(gaps) > 10  # of 1 to 19
    settings.SECRET_KEY = "another"
    assert places(7, project) != mine


def test_gold_fills_no_slot_and_is_asked_once(project, annotator):
    services.update_assignment(project=project, gold_rate=0.25)
    gold = add_gold(project, 3)
    factories.add_texts(project, 20)
    kinds = work(project, annotator)
    assert (kinds.count("gold"), kinds.count("regular")) == (3, 20)
    asked = Judgement.objects.filter(kind=Kind.GOLD).values_list("comparison", flat=True)
    assert sorted(asked) == [comparison.pk for comparison in gold]
    assert set(Lease.objects.filter(kind=Kind.GOLD).values_list("slot", flat=True)) == {None}
    assert set(Comparison.objects.values_list("open_slots", flat=True)) == {0}


def test_no_gold_when_nothing_else_is_left(project, annotator):
    services.update_assignment(project=project, gold_rate=0.5)
    add_gold(project, 5)
    assert take(project, annotator) is None


def test_repeats_come_after_a_distance_with_a_new_order(project, annotator):
    services.update_assignment(project=project, repeat_rate=0.25, repeat_distance=10)
    factories.add_texts(project, 60)
    work(project, annotator)
    judged = list(Judgement.objects.order_by("pk"))
    repeats = [judgement for judgement in judged if judgement.kind == Kind.REPEAT]
    assert len(repeats) >= 10
    orders = set()
    for repeat in repeats:
        first = next(one for one in judged if one.comparison_id == repeat.comparison_id)
        between = [one for one in judged if first.pk < one.pk < repeat.pk and one.kind == Kind.REGULAR]
        assert first.kind == Kind.REGULAR
        assert len(between) >= 10
        orders.add(first.order == repeat.order)
    assert orders == {True, False}  # fails by chance once in 2**9
    once = Judgement.objects.filter(kind=Kind.REPEAT).values("comparison").distinct().count()
    assert once == len(repeats)
    assert Judgement.objects.filter(kind=Kind.REGULAR).count() == 60


def test_a_skipped_or_lapsed_check_opens_no_slot(project, annotator):
    services.update_assignment(project=project, gold_rate=0.5)
    add_gold(project, 4)
    factories.add_texts(project, 10)
    seen = 0
    while seen < 2 and (lease := take(project, annotator)):
        if Lease.objects.get(pk=lease.pk).kind == Kind.REGULAR:
            answer(lease, annotator)
        elif seen == 0:
            services.skip_lease(lease_id=lease.pk, annotator=annotator, now=NOW)
            seen += 1
        else:
            expire(lease)
            assert services.reopen_expired_leases(now=NOW) == 1
            answer(lease, annotator)  # late, and honoured: there is no slot that could be gone
            seen += 1
    assert Judgement.objects.filter(kind=Kind.GOLD).count() == 1
    assert not Comparison.objects.filter(needed=0, open_slots__gt=0).exists()


def test_undo_of_a_check_brings_a_check_back(project, annotator):
    services.update_assignment(project=project, gold_rate=0.5)
    add_gold(project, 4)
    factories.add_texts(project, 10)
    work(project, annotator)
    judgement = Judgement.objects.filter(kind=Kind.GOLD).first()
    back = services.undo_judgement(judgement_id=judgement.pk, annotator=annotator, now=NOW)
    assert (back.kind, back.slot, back.comparison_id) == (Kind.GOLD, None, judgement.comparison_id)
    again, _ = answer(back, annotator)
    assert again.kind == Kind.GOLD


def test_nothing_over_the_network_tells_a_check(project, annotator):
    """Replies to gold questions and repeats have the keys of all others, and names that order nothing."""
    services.update_assignment(project=project, gold_rate=0.2, repeat_rate=0.2, repeat_distance=3)
    add_gold(project, 20)
    factories.add_texts(project, 60)
    client, shapes, numbers = api_client(annotator), {}, {}
    shown = client.post(f"/api/v1/projects/{project.pk}/next/").json()
    while shown:
        kind = Lease.objects.get(pk=shown["lease"]).kind
        body = {"client_id": str(uuid.uuid4()), "choice": 0}
        reply = client.post(f"/api/v1/leases/{shown['lease']}/judgement/?next=1", body)
        text = json.dumps(reply.json())
        assert not any(word in text for word in ("gold", "repeat", "regular", "kind"))
        shapes.setdefault(kind, set()).add((frozenset(shown), frozenset(reply.json()), len(reply.headers)))
        numbers.setdefault(kind, []).append(shown["comparison"])
        shown = reply.json()["next"]
    assert set(numbers) == {"regular", "gold", "repeat"}
    assert shapes["gold"] == shapes["repeat"] == shapes["regular"]
    every = [number for found in numbers.values() for number in found]
    assert len(set(every)) == len(every)  # a repeat has a name of its own
    assert not set(every) & set(Comparison.objects.values_list("pk", flat=True))


def test_handing_out_a_check_takes_no_query_that_others_do_not(project, annotator):
    services.update_assignment(project=project, gold_rate=0.5)
    add_gold(project, 30)
    factories.add_texts(project, 30)
    counts = {"regular": set(), "gold": set()}
    for _ in range(25):
        with CaptureQueriesContext(
            connection,
        ) as captured:
            lease = take(project, annotator)
        counts[Lease.objects.get(pk=lease.pk).kind].add(len(captured))
        answer(lease, annotator)
    assert counts["gold"] == counts["regular"]
    assert len(counts["gold"]) == 1


def test_a_project_without_checks_names_comparisons_by_their_id(project, annotator):
    (comparison,) = factories.add_texts(project, 1)
    assert services.present(take(project, annotator))["comparison"] == comparison.pk


def test_known_answers(project, annotator):
    (comparison,) = factories.add_texts(project, 1)
    make = {"project": project, "comparison_id": comparison.pk, "by": project.created_by}
    first = services.set_gold_answer(**make, choice=0)
    again = services.set_gold_answer(**make, choice="tie", explanation="They are equal.")
    assert (again.pk, again.choice, GoldAnswer.objects.count()) == (first.pk, "tie", 1)
    with pytest.raises(Invalid, match="Nothing is answered"):
        services.set_gold_answer(**make)
    with pytest.raises(Invalid):
        services.set_gold_answer(**make, choice=2)
    with pytest.raises(NotFound):
        services.set_gold_answer(**make | {"comparison_id": comparison.pk + 1}, choice=0)
    services.remove_gold_answer(project=project, gold_answer_id=again.pk)
    assert not GoldAnswer.objects.exists()


# The test before the first work


@pytest.fixture
def tested(project):
    """Three questions, two of which have to be right; two attempts."""
    add_gold(project, 3, purpose="qualification")
    factories.add_texts(project, 4)
    return services.update_assignment(project=project, pass_mark=0.6, test_attempts=2)


def give(project, user, *, right):
    """An answer to the next question of the test, right (the first candidate) or wrong."""
    lease = take(project, user)
    choice = lease.order.index(0 if right else 1)
    body = {"client_id": str(uuid.uuid4()), "choice": choice}
    return api_client(user).post(f"/api/v1/leases/{lease.pk}/judgement/?next=1", body).json()


def test_a_passed_test_opens_the_work(tested, annotator):
    first = give(tested, annotator, right=True)
    expected = {"choice": first["choice"]}
    assert first["feedback"] == {"right": True, "expected": expected, "explanation": "", "result": None}
    second = give(tested, annotator, right=False)
    assert second["feedback"]["right"] is False
    assert second["feedback"]["expected"]["choice"] == 1 - second["choice"]
    last = give(tested, annotator, right=True)
    result = {"right": 2, "total": 3, "passed": True, "attempts_left": 0}
    assert last["feedback"]["result"] == result
    assert Lease.objects.get(pk=last["next"]["lease"]).kind == Kind.REGULAR
    assert "feedback" not in give(tested, annotator, right=True)
    assert set(Comparison.objects.filter(needed=0).values_list("open_slots", flat=True)) == {0}


def test_the_page_says_what_was_right_and_why(project, annotator, annotator_page):
    (comparison,) = factories.add_texts(project, 1)
    services.set_gold_answer(
        project=project,
        comparison_id=comparison.pk,
        by=project.created_by,
        choice=0,
        purpose="qualification",
        explanation="It *answers* <script>.",
    )
    services.update_assignment(project=project, pass_mark=1.0)
    lease = take(project, annotator)
    body = {"client_id": str(uuid.uuid4()), "choice": lease.order.index(1)}
    reply = api_client(annotator).post(f"/api/v1/leases/{lease.pk}/judgement/?html=1", body).json()
    html = reply["feedback"]["html"]
    right = "AB"[lease.order.index(0)]
    for words in (
        "Not what was expected.",
        f"{right} better",
        "<em>answers</em> &lt;script&gt;",
        "0 of 1 were",
    ):
        assert words in html
    services.update_assignment(project=project, test_attempts=2)
    page = annotator_page.get(f"/projects/{project.pk}/judge/")
    form = {"lease": page.context["item"]["lease"], "client_id": page.context["client_id"], "key": "1"}
    answered = annotator_page.post(f"/projects/{project.pk}/judge/submit/", form, follow=True)
    assert "Expected:" in answered.content.decode()


def test_a_failed_attempt_begins_again_and_the_last_one_ends_it(tested, annotator):
    for _ in range(2):
        give(tested, annotator, right=False)
    failed = give(tested, annotator, right=True)
    result = {"right": 1, "total": 3, "passed": False, "attempts_left": 1}
    assert failed["feedback"]["result"] == result
    assert Lease.objects.get(pk=failed["next"]["lease"]).kind == Kind.QUALIFICATION
    for _ in range(3):
        last = give(tested, annotator, right=False)
    assert last["feedback"]["result"]["attempts_left"] == 0
    assert last["next"] is None
    assert take(tested, annotator) is None
    stand = services.standing(project=tested, user=annotator, now=NOW)
    assert (stand["blocked"], stand["test"]["used"], stand["test"]["last"]["right"]) == ("test_failed", 2, 0)
    assert Judgement.objects.count() == 6
    assert Judgement.objects.standing().count() == 3
    services.update_member(project=tested, user=annotator.pk, excused=True, now=NOW)
    assert Lease.objects.get(pk=take(tested, annotator).pk).kind == Kind.REGULAR


def test_the_test_cannot_be_skipped_or_taken_back(tested, annotator):
    lease = take(tested, annotator)
    with pytest.raises(Conflict, match="cannot be skipped"):
        services.skip_lease(lease_id=lease.pk, annotator=annotator, now=NOW)
    judgement, _ = answer(lease, annotator)
    with pytest.raises(Conflict, match="cannot be taken back"):
        services.undo_judgement(judgement_id=judgement.pk, annotator=annotator, now=NOW)


def test_two_questions_ahead_and_then_nothing_until_they_are_answered(tested, annotator):
    first = take(tested, annotator)
    second = take(tested, annotator, after=first)
    answer(first, annotator)
    third = take(tested, annotator, after=second)
    answer(second, annotator)
    assert third.comparison_id not in (first.comparison_id, second.comparison_id)
    assert take(tested, annotator, after=third) is None
    assert take(tested, annotator).pk == third.pk


def test_a_test_needs_questions(project):
    with pytest.raises(Invalid, match="no questions yet"):
        services.update_assignment(project=project, pass_mark=0.5)
    (comparison,) = add_gold(project, 1, purpose="qualification")
    services.update_assignment(project=project, pass_mark=0.5)
    with pytest.raises(Conflict, match="at least one question"):
        services.remove_gold_answer(project=project, gold_answer_id=comparison.gold_answer.pk)
