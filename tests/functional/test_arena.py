"""The arena in a browser: ask, wait, judge by key, and only then read which models these were."""

import pytest
from django.utils import timezone

from annotation.services.media import store_image
from tests.functional.accessibility import Walk
from tests.functional.pictures import disc
from tests.training import factories
from training import services
from training.models import Duel, Run
from training.services import duels

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def answers(monkeypatch):
    """What the two models write, instead of what a worker would bring home."""
    written = []
    monkeypatch.setattr(duels, "_answer_of", lambda run: written.pop(0))
    return written


@pytest.fixture
def arena(world, tmp_path, settings):
    storage = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": tmp_path}}
    settings.STORAGES = {**settings.STORAGES, "default": storage}
    for project in (world.texts, world.pictures):
        names = [f"secret-model-{project.modality}-{side}" for side in "ab"]
        models = [
            factories.make_base(tmp_path / name, name=name, modality=project.modality, by=world.manager)
            for name in names
        ]
        factories.make_arena(project, models)


def finish(duel: Duel) -> None:
    """Both runs end, and the light worker passes their answers on."""
    Run.objects.filter(project=duel.arena.project).update(status=Run.Status.DONE)
    services.advance_duels(now=timezone.now())


def ask(page, project, prompt: str) -> Duel:
    page.goto(f"/projects/{project.pk}/arena/")
    page.fill("[name=prompt]", prompt)
    with page.expect_navigation():
        page.click("button:has-text('Ask two models')")
    page.wait_for_selector("#duel progress")
    return Duel.objects.select_related("arena__project").latest("pk")


def told(watch) -> list[str]:
    return [url for url, body in watch.bodies if b"secret-model" in body]


def test_a_conversation_judged_by_key(open_page, world, arena, answers, watch):
    page = open_page(world.annotator)
    duel = ask(page, world.texts, "Why is the sky blue?")
    answers += [{"text": "Because of **scattering**."}, {"text": "It is not."}]
    finish(duel)
    page.wait_for_selector("main[data-ready]")
    assert page.locator(".candidate").count() == 2
    page.click("summary:has-text('Say more')")
    page.fill("#more-prompt", "Are you sure?")
    with page.expect_navigation():
        page.click("button:has-text('Send to both')")
    page.wait_for_selector("#duel progress")
    answers += [{"text": "Yes."}, {"text": "No."}]
    finish(duel)
    page.wait_for_selector("main[data-ready]")
    assert page.locator(".candidate .turn").count() == 6
    assert told(watch) == []
    page.keyboard.press("2")
    page.wait_for_selector("main[data-judged][data-ready]")
    names = page.locator(".candidate h2").all_inner_texts()
    assert {name.partition(" · ")[2].removesuffix(" ✓") for name in names} == {
        "secret-model-text-a",
        "secret-model-text-b",
    }
    assert page.locator(".candidate.chosen").count() == 1
    assert page.locator("#answer").count() == 0
    assert page.inner_text(".revealed").startswith("You preferred secret-model-text-")


def test_pictures_on_a_phone(open_page, world, arena, answers, watch):
    page = open_page(world.annotator, viewport={"width": 360, "height": 740})
    duel = ask(page, world.pictures, "a red disc")
    answers += [{"image": store_image(disc(5, "#d7263d"))}, {"image": store_image(disc(9, "#2e86ab"))}]
    finish(duel)
    page.wait_for_selector("main[data-ready]")
    assert told(watch) == []
    walk = Walk(page)
    walk.look("duel on a phone")
    page.click(".key.tie")
    page.wait_for_selector("main[data-judged][data-ready]")
    walk.look("revealed on a phone")
    assert not walk.problems
    assert "equal" in page.inner_text(".revealed")


def test_a_failure_is_told_plainly(open_page, world, arena, watch):
    page = open_page(world.annotator)
    duel = ask(page, world.texts, "Why?")
    Run.objects.filter(project=world.texts).update(status=Run.Status.FAILED, error="secret-model is broken")
    services.advance_duels(now=timezone.now())
    page.wait_for_selector("button:has-text('Try again')")
    with page.expect_navigation():
        page.click("button:has-text('Try again')")
    page.wait_for_selector("#duel progress")
    with page.expect_navigation():
        page.click("button:has-text('Leave it')")
    page.wait_for_selector("button:has-text('Ask two models')")
    duel.refresh_from_db()
    assert duel.status == "abandoned"
    assert told(watch) == []
