"""The arena: two unnamed models answer, the asker alone judges, and then learns which they were."""

import io
import json
import random
import uuid
import zipfile
from datetime import timedelta

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.utils import timezone

from annotation import services as annotation_services
from annotation.browsing import own_judgements
from annotation.errors import Blocked, Conflict, Invalid, TooMany
from annotation.models import Comparison, Judgement, Lease
from tests.annotation.conftest import api_client
from tests.annotation.factories import make_project, make_user
from tests.annotation.files import png
from tests.training import factories
from tests.training.conftest import client_of
from training import arena_browsing, services
from training.models import Arena, Checkpoint, Duel, Run, Snapshot

pytestmark = pytest.mark.django_db
NAMES = ("secret-model-one", "secret-model-two", "secret-model-three")


@pytest.fixture
def anna(project, manager):
    user = make_user(username="anna")
    annotation_services.add_member(project=project, username="anna", role="annotator", by=manager)
    return user


@pytest.fixture
def models(manager, tmp_path):
    return [factories.make_base(tmp_path / name, name=name, by=manager) for name in NAMES]


@pytest.fixture
def arena(project, models) -> Arena:
    return factories.make_arena(project, models)


def ask(project, user, prompt="Why?", **values) -> Duel:
    return services.ask(project=project, user=user, prompt=prompt, now=timezone.now(), **values)


def write(run: Run, candidate: dict, *, media: bytes = b"") -> None:
    """What a worker brings home of a generation."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as result:
        row = {"prompt": "x", "candidates": [candidate], "meta": {"row": 0}}
        result.writestr("generations.jsonl", json.dumps(row) + "\n")
        if media:
            result.writestr(f"media/{candidate['image']}", media)
    key = default_storage.save("checkpoints/answer.zip", ContentFile(packed.getvalue()))
    Checkpoint.objects.create(run=run, storage_key=key, sha256="ab" * 32, size=1)
    Run.objects.filter(pk=run.pk).update(status=Run.Status.DONE)


def last_turn(duel: Duel):
    return duel.turns.select_related("left_run", "right_run").order_by("-number").first()


def answer(duel: Duel, left: str = "Left answer.", right: str = "Right answer.") -> Duel:
    turn = last_turn(duel)
    write(turn.left_run, {"text": left})
    write(turn.right_run, {"text": right})
    services.advance_duels(now=timezone.now())
    return services.duel_of(pk=duel.pk, user=duel.asker)


def vote(duel: Duel, choice) -> Judgement:
    given = {"lease_id": duel.lease.pk, "annotator": duel.asker, "client_id": uuid.uuid4(), "choice": choice}
    return annotation_services.submit_judgement(**given, now=timezone.now())[0]


def prompt_of(run: Run):
    return services.jobs.frozen_rows(run)[0]["prompt"]


def test_from_a_question_to_the_names(arena, project, anna):
    asked = ask(project, anna, "Why is the sky blue?")
    turn = last_turn(asked)
    assert [run.method for run in (turn.left_run, turn.right_run)] == ["generate"] * 2
    assert {turn.left_run.base.name, turn.right_run.base.name} == {asked.left.name, asked.right.name}
    assert turn.left_run.seed != turn.right_run.seed
    assert turn.left_run.created_by == arena.managed_by
    duel = answer(asked)
    comparison = duel.lease.comparison
    assert (duel.status, comparison.held_out, comparison.needed, comparison.open_slots) == (
        "ready",
        True,
        0,
        0,
    )
    sources = [one.source for one in comparison.candidates.order_by("index")]
    assert sources[duel.left_index] == duel.left.name
    assert sources[1 - duel.left_index] == duel.right.name
    assert not services.is_judged(duel)
    judgement = vote(duel, 1)
    assert judgement.kind == "regular"
    judged = services.duel_of(pk=duel.pk, user=anna)
    assert services.is_judged(judged)
    outcome = arena_browsing.outcome_of(judged)
    assert outcome.choice == 1
    assert outcome.names == [sources[index] for index in duel.lease.order]
    assert outcome.sentence == f"You preferred {outcome.names[1]} to {outcome.names[0]}."


def test_it_is_in_nobodys_queue_and_no_part_of_a_quota(arena, project, anna):
    Comparison.objects.filter(project=project).update(open_slots=0)
    duel = answer(ask(project, anna))
    now = timezone.now()
    other = make_user()
    annotation_services.add_member(
        project=project, username=other.username, role="annotator", by=project.created_by
    )
    for user in (anna, other):
        assert annotation_services.next_lease(project=project, user=user, now=now) is None
    _judgement, following = annotation_services.submit_judgement(
        lease_id=duel.lease.pk, annotator=anna, client_id=uuid.uuid4(), choice="tie", now=now, want_next=True
    )
    assert following is None
    member = annotation_services.member_of(project, anna.pk)
    assert (member.answered, member.served) == (0, 0)
    assert not own_judgements(project=project, user=anna).exists()


def test_what_was_revealed_cannot_be_taken_back(arena, project, anna):
    duel = answer(ask(project, anna))
    judgement = vote(duel, 0)
    with pytest.raises(Conflict, match="cannot be taken back"):
        annotation_services.undo_judgement(judgement_id=judgement.pk, annotator=anna, now=timezone.now())
    for change in (services.abandon, lambda duel: services.say_more(duel=duel, user=anna, message="And?")):
        with pytest.raises(Conflict, match="judged these answers already"):
            change(duel=duel)
    assert Judgement.objects.filter(pk=judgement.pk, undone_at=None).exists()


def test_a_late_answer_counts(arena, project, anna):
    duel = answer(ask(project, anna))
    later = timezone.now() + timedelta(days=2)
    annotation_services.reopen_expired_leases(now=later)
    assert Lease.objects.in_hands_of(anna).filter(pk=duel.lease.pk).exists()  # and still hides its sources
    vote(duel, 0)
    assert Comparison.objects.get(pk=duel.lease.comparison_id).open_slots == 0


def test_several_turns(arena, project, anna):
    duel = answer(ask(project, anna, "Hello?"), left="Hi.", right="Good day.")
    first = duel.lease.comparison_id
    services.say_more(duel=duel, user=anna, message="How are you?")
    assert not Comparison.objects.filter(pk=first).exists()
    turn = last_turn(duel)
    said = {"left": "Hi.", "right": "Good day."}
    for side, text in said.items():
        assert prompt_of(getattr(turn, f"{side}_run")) == [
            {"role": "user", "content": "Hello?"},
            {"role": "assistant", "content": text},
            {"role": "user", "content": "How are you?"},
        ]
    duel = answer(duel, left="Fine.", right="Well.")
    candidates = list(duel.lease.comparison.candidates.order_by("index"))
    assert duel.lease.comparison.prompt == "Hello?"
    assert candidates[duel.left_index].text == [
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "How are you?"},
        {"role": "assistant", "content": "Fine."},
    ]
    vote(duel, "both_bad")
    assert services.standings(arena).standings[0].tied == 1


def test_a_failed_answer_can_be_tried_again(arena, project, anna):
    duel = ask(project, anna)
    turn = last_turn(duel)
    Run.objects.filter(pk=turn.left_run.pk).update(status="failed", error=f"{duel.left.name} is broken")
    services.advance_duels(now=timezone.now())
    duel.refresh_from_db()
    assert duel.status == "failed"
    turn.right_run.refresh_from_db()
    assert turn.right_run.status == "cancelled"  # nobody waits for it
    page = client_of(anna).get(duel.get_absolute_url())
    assert "secret-model" not in page.text
    assert "Try again" in page.text
    services.try_again(duel=duel, user=anna)
    again = last_turn(duel)
    assert again.left_run_id not in (turn.left_run_id, turn.right_run_id)
    assert {again.left_run.base.name, again.right_run.base.name} == {duel.left.name, duel.right.name}
    assert answer(duel).status == "ready"
    with pytest.raises(Conflict, match="nothing to try again"):
        services.try_again(duel=duel, user=anna)


def test_a_prompt_that_a_model_cannot_take(arena, project, anna):
    duel = ask(project, anna)
    turn = last_turn(duel)
    write(turn.left_run, {"text": "Left."})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as result:
        result.writestr("generations.jsonl", "")
    key = default_storage.save("checkpoints/nothing.zip", ContentFile(packed.getvalue()))
    Checkpoint.objects.create(run=turn.right_run, storage_key=key, sha256="cd" * 32, size=1)
    Run.objects.filter(pk=turn.right_run.pk).update(status="done")
    services.advance_duels(now=timezone.now())
    duel.refresh_from_db()
    assert duel.status == "failed"


def test_what_is_left_costs_nothing(arena, project, anna):
    """A new question leaves the one before: its runs end, or its comparison goes."""
    first = ask(project, anna)
    second = answer(ask(project, anna))
    first.refresh_from_db()
    assert first.status == "abandoned"
    assert {run.status for run in (last_turn(first).left_run, last_turn(first).right_run)} == {"cancelled"}
    third = ask(project, anna)
    second = Duel.objects.get(pk=second.pk)
    assert (second.status, second.lease) == ("abandoned", None)
    assert not Comparison.objects.filter(meta__duel=second.pk).exists()
    assert services.open_duels(arena, anna) == [third]
    assert services.standings(arena) is None


def test_forgotten_questions_are_left_after_a_day(arena, project, anna):
    duel = answer(ask(project, anna))
    judged = answer(ask(project, project.created_by))
    vote(judged, 0)
    now = timezone.now()
    assert services.forget_duels(now=now + timedelta(hours=24)) == 0
    assert services.forget_duels(now=now + timedelta(hours=26)) == 1
    duel.refresh_from_db()
    assert duel.status == "abandoned"
    assert Judgement.objects.filter(lease__duel=judged.pk).exists()


def test_what_was_asked_goes_with_what_was_said(arena, project, anna, django_capture_on_commit_callbacks):
    """Once anna has all of hers deleted: messages, answers, runs, those that failed too, and every file but
    one that somebody else's run reads. A model that is still answering is cancelled first.
    """
    others = answer(ask(project, project.created_by, "Shared words"))
    vote(others, 0)
    kept = {others.turns.get().left_run.snapshot.storage_key}
    judged = answer(ask(project, anna, "Shared words"))
    vote(judged, 0)
    failed = ask(project, anna, "My secret")
    turn = failed.turns.get()
    before = [turn.left_run, turn.right_run]
    Run.objects.filter(pk__in=[run.pk for run in before]).update(status="failed")
    services.advance_duels(now=timezone.now())
    services.try_again(duel=failed, user=anna)
    running = last_turn(failed).left_run
    Run.objects.filter(pk=running.pk).update(status="running")
    assert services.delete_withdrawn() == 0

    annotation_services.withdraw(project=project, user=anna, now=timezone.now())
    annotation_services.delete_judgements(project=project, user=anna)
    written = set(Snapshot.objects.values_list("storage_key", flat=True))
    with django_capture_on_commit_callbacks(execute=True):
        assert services.delete_withdrawn() == 1
    assert Run.objects.get(pk=running.pk).cancel_requested_at
    Run.objects.filter(pk=running.pk).update(status="cancelled")
    with django_capture_on_commit_callbacks(execute=True):
        assert services.delete_withdrawn() == 1
    assert list(Duel.objects.all()) == [others]
    assert set(Run.objects.all()) == {others.turns.get().left_run, others.turns.get().right_run}
    assert Comparison.objects.filter(meta__has_key="duel").get().meta["duel"] == others.pk
    assert {key for key in written if default_storage.exists(key)} == kept
    assert services.delete_withdrawn() == 0
    assert services.ask(project=project, user=project.created_by, prompt="Still open?", now=timezone.now())


def test_who_met_least_is_drawn(arena):
    """Three models make three pairs: nine draws bring each pair three times, never a model with itself."""
    generator = random.Random(7)
    user, met = make_user(), []
    for _ in range(9):
        left, right = services.arena.draw(arena, generator=generator)
        values = {"asker": user, "left_index": 0, "created_at": timezone.now()}
        Duel.objects.create(arena=arena, left=left, right=right, **values)
        met.append(frozenset((left.name, right.name)))
    assert all(len(pair) == 2 for pair in met)
    assert sorted(met.count(pair) for pair in set(met)) == [3, 3, 3]
    for start in (0, 3, 6):
        assert len(set(met[start : start + 3])) == 3


def test_who_took_part_and_left(arena, project, manager, models):
    before = {one.pk for one in services.contenders_of(arena)}
    services.set_arena(by=manager, project=project, models=NAMES[1:], is_open=False)
    arena.refresh_from_db()
    assert not arena.is_open
    assert [one.name for one in services.contenders_of(arena)] == list(NAMES[1:])
    assert {one.pk for one in arena.contenders.all()} == before
    with pytest.raises(Conflict, match="closed"):
        ask(project, manager)


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"models": ["secret-model-one"]}, "models"),
        ({"models": ["secret-model-one"] * 2}, "models"),
        ({"models": ["secret-model-one", "nothing"]}, "models"),
        ({"models": NAMES, "config": {"samples_per_prompt": 3}}, "config.samples_per_prompt"),
        ({"models": NAMES, "config": {"temperature": -1}}, "config.temperature"),
    ],
)
def test_refused_arenas(project, manager, models, wanted, field):
    with pytest.raises(Invalid) as refused:
        services.set_arena(by=manager, project=project, **wanted)
    assert list(refused.value.errors) == [field]
    assert not Arena.objects.exists()


def test_a_project_without_a_choice_has_no_arena(manager, models):
    rated = make_project(by=manager, questions=[{"type": "thumbs"}])
    with pytest.raises(Invalid, match="asks for no choice"):
        services.set_arena(by=manager, project=rated, models=NAMES)


@pytest.mark.parametrize("prompt", ["", "   ", "x" * 8001, "a\x00b"])
def test_refused_prompts(arena, project, anna, prompt):
    with pytest.raises(Invalid):
        ask(project, anna, prompt)
    assert not Duel.objects.exists()


def test_who_asks_too_often_waits(arena, project, anna, settings):
    settings.RATE_LIMITS = {**settings.RATE_LIMITS, "arena": (2, timedelta(hours=1))}
    ask(project, anna)
    ask(project, anna)
    reply = api_client(anna).post(f"/api/v1/projects/{project.pk}/duels/", {"prompt": "x"})
    assert reply.status_code == 429
    assert 0 < int(reply["Retry-After"]) <= 3601
    with pytest.raises(TooMany):
        ask(project, anna)


def test_who_may_not_work_may_not_ask(arena, project, anna):
    annotation_services.pause_member(project=project, user=anna.pk, reason="", now=timezone.now())
    with pytest.raises(Blocked):
        ask(project, anna)
    page = client_of(anna).post(f"/projects/{project.pk}/arena/", {"prompt": "x"}, follow=True)
    assert "paused" in page.text


def test_points(arena, project, anna):
    """One model that won each of its duels stands first, by the leaderboard of the project's own method."""
    for _ in range(6):
        duel = answer(ask(project, anna))
        names = [one.source for one in duel.lease.comparison.candidates.order_by("index")]
        best = min(names)  # secret-model-one, then -three, then -two
        vote(duel, duel.lease.order.index(names.index(best)))
    board = services.standings(arena)
    assert [row.source for row in board.standings] == [NAMES[0], NAMES[2], NAMES[1]]
    assert [(row.won, row.tied, row.lost) for row in board.standings] == [(4, 0, 0), (2, 0, 2), (0, 0, 4)]
    low, value, high = (getattr(board.standings[0].points, name) for name in ("low", "value", "high"))
    assert low <= value <= high
    assert value > 1000


def test_nothing_names_the_models_before_the_vote(arena, project, anna):
    """Pages, parts and API, while the answers are written and while they are judged; to the asker alone."""
    page, api = client_of(anna), api_client(anna)
    asked = ask(project, anna)
    addresses = [
        asked.get_absolute_url(),
        f"/projects/{project.pk}/arena/",
        f"/projects/{project.pk}/history/",
    ]
    calls = [f"/api/v1/duels/{asked.pk}/", f"/api/v1/projects/{project.pk}/arena/"]

    def look() -> list[str]:
        shown = [page.get(address) for address in addresses]
        shown += [page.get(asked.get_absolute_url(), headers={"HX-Request": "true"})]
        shown += [api.get(call) for call in calls]
        assert all(reply.status_code == 200 for reply in shown)
        return [f"{reply.headers} {reply.content.decode()}" for reply in shown]

    assert not [text for text in look() if "secret-model" in text]
    duel = answer(asked)
    assert not [text for text in look() if "secret-model" in text]
    lease = api.get(calls[0]).json()["comparison"]["lease"]
    assert lease == str(duel.lease.pk)
    said = api.post(f"/api/v1/leases/{lease}/judgement/", {"client_id": str(uuid.uuid4()), "choice": 0})
    assert said.status_code == 201
    assert "secret-model" not in said.text
    shown = api.get(calls[0]).json()
    assert (shown["status"], shown["models"]) == ("judged", arena_browsing.outcome_of(duel_now(duel)).names)
    revealed = page.get(addresses[0]).text
    assert all(name in revealed for name in shown["models"])
    assert client_of(make_member(project)).get(addresses[0]).status_code == 404


def duel_now(duel: Duel) -> Duel:
    return services.duel_of(pk=duel.pk, user=duel.asker)


def make_member(project):
    user = make_user()
    annotation_services.add_member(
        project=project, username=user.username, role="annotator", by=project.created_by
    )
    return user


def test_pages_without_scripts(arena, project, anna):
    page = client_of(anna)
    begun = page.post(f"/projects/{project.pk}/arena/", {"prompt": "Why?"})
    duel = Duel.objects.get()
    assert begun.url == duel.get_absolute_url()
    part = page.get(begun.url, headers={"HX-Request": "true"})
    assert "HX-Refresh" not in part.headers
    answer(duel)
    assert page.get(begun.url, headers={"HX-Request": "true"})["HX-Refresh"] == "true"
    lease = duel_now(duel).lease.pk
    other = {"lease": str(uuid.uuid4()), "client_id": str(uuid.uuid4()), "key": "1"}
    assert page.post(f"{begun.url}vote/", other).status_code == 302
    assert not services.is_judged(duel_now(duel))
    said = page.post(f"{begun.url}vote/", other | {"lease": str(lease)}, follow=True)
    assert "You preferred" in said.text
    assert "You preferred" in page.get(f"/projects/{project.pk}/arena/").text
    again = page.post(f"{begun.url}leave/", follow=True)
    assert "judged these answers already" in again.text


def test_the_managers_page(project, manager, models):
    page = client_of(manager)
    address = f"/projects/{project.pk}/arena/"
    assert "Nobody can ask anything yet" in page.get(address).text
    assert page.post(f"{address}models/", {"models": NAMES[:1], "is_open": "on"}).status_code == 400
    page.post(f"{address}models/", {"models": NAMES[:2], "is_open": "on"})
    arena = Arena.objects.get()
    assert arena.is_open
    assert arena.managed_by == manager
    vote(answer(ask(project, manager)), 0)
    shown = page.get(address).text
    assert NAMES[0] in shown
    assert "Davidson" in shown
    assert (
        api_client(manager).get(f"/api/v1{address}leaderboard/").json()["leaderboard"]["rows"][0]["won"] == 1
    )
    assert api_client(manager).get(f"/api/v1{address}").json()["models"] == list(NAMES[:2])
    assert not page.get(f"/projects/{project.pk}/runs/").text.count("secret-model")


def test_pictures(manager, tmp_path):
    pictures = make_project(by=manager, modality="image")
    both = [
        factories.make_base(tmp_path / name, name=name, modality="image", by=manager) for name in NAMES[:2]
    ]
    factories.make_arena(pictures, both)
    duel = ask(pictures, manager, "a red disc")
    turn = last_turn(duel)
    assert turn.left_run.method == "image_generate"
    write(turn.left_run, {"image": "a.png"}, media=png())
    write(turn.right_run, {"image": "b.png"}, media=png(colour="blue"))
    services.advance_duels(now=timezone.now())
    duel = duel_now(duel)
    page = client_of(manager)
    shown = page.get(duel.get_absolute_url())
    assert shown.text.count("/media/") >= 2
    assert "secret-model" not in shown.text
    media = page.get(f"/api/v1/leases/{duel.lease.pk}/media/0")
    assert media.status_code == 200
    assert "secret-model" not in str(media.headers)
    with pytest.raises(Conflict, match="one prompt"):
        services.say_more(duel=duel, user=manager, message="And blue?")


def test_the_worker_passes_the_answers_on(arena, project, anna, monkeypatch):
    """Whoever asked need not wait for the scheduler."""
    from training import tasks

    duel, told = ask(project, anna), []
    monkeypatch.setattr(services, "execute", lambda run: write(run, {"text": f"Answer {run.pk}."}))
    monkeypatch.setattr(tasks.advance_duels, "apply_async", lambda: told.append(1))
    tasks.work_runs(device_kind="cpu")
    assert len(told) == 2
    tasks.advance_duels()
    assert duel_now(duel).status == "ready"


def test_a_comparison_that_a_manager_deleted(arena, project, anna):
    duel = answer(ask(project, anna))
    annotation_services.delete_comparison(comparison=duel.lease.comparison)
    page = client_of(anna)
    assert "no longer there" in page.get(duel.get_absolute_url()).text
    assert services.open_duels(arena, anna) == []
    assert ask(project, anna).status == "generating"
