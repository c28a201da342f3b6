"""The judging page in a reviewer's hands: what people said stands beside the work."""

import pytest
from playwright.sync_api import expect

from annotation import services
from annotation.models import Judgement
from tests.annotation import factories
from tests.annotation.test_reviewing import given
from tests.functional.accessibility import violations
from tests.functional.conftest import wait_until_saved

pytestmark = pytest.mark.django_db(transaction=True)
MARKS = {
    "type": "marks",
    "kinds": ["span"],
    "categories": [{"name": "wrong"}, {"name": "rude"}],
    "required": True,
}
SPAN = {"candidate": 0, "type": "span", "start": 0, "end": 3, "category": "wrong"}


@pytest.fixture
def unshuffled(monkeypatch):
    monkeypatch.setattr("annotation.services.queue._shuffle", lambda order: None)


def decisions(project) -> list[dict]:
    """What reviewers decided and did not take back, in their order."""
    rows = Judgement.objects.standing().filter(comparison__project=project, kind="review")
    return [services.answer_as_given(row) for row in rows.order_by("created_at", "pk")]


def open_review(page, project):
    page.goto(f"/projects/{project.pk}/review/")
    page.wait_for_selector("main[data-ready]")
    return page


def test_deciding_between_marks(open_page, world, unshuffled, watch):
    """One is right as it is, one is begun from what somebody said, one is taken back and decided anew."""
    project = factories.make_project(by=world.manager, questions=[MARKS])
    rude = SPAN | {"category": "rude"}
    for _ in range(2):
        given(project, {"marks": [SPAN]}, {"marks": [rude]}, text="fools rush in")
    page = open_review(open_page(world.manager), project)
    expect(page.locator("#said tbody tr")).to_have_count(2)
    assert violations(page) == []
    said = page.evaluate("JSON.parse(document.querySelector('#judge-data').textContent).item.judgements")
    page.press("#said button[name=said][value='2']", "Enter")
    page.wait_for_selector("#announcer:has-text('Next comparison')", state="attached")
    wait_until_saved(page)
    assert decisions(project) == [{"marks": said[1]["marks"]}]
    page.press("#said button[data-begin='1']", "Enter")
    expect(page.locator(".marked li")).to_have_count(1)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#idle:visible:has-text('Nobody disagrees')")
    wait_until_saved(page)
    assert len(decisions(project)) == 2
    assert not page.is_visible("#said")
    page.keyboard.press("z")
    page.wait_for_selector("#work:visible")
    expect(page.locator("#said tbody tr")).to_have_count(2)
    expect(page.locator(".marked li")).to_have_count(1)
    page.keyboard.press("Control+Enter")
    wait_until_saved(page)
    assert len(decisions(project)) == 2


def test_deciding_by_one_key(open_page, world, unshuffled):
    project = factories.make_project(by=world.manager)
    for _ in range(3):
        given(project, {"choice": 0, "strength": 1}, {"choice": 1, "strength": 3}, text="x")
    page = open_review(open_page(world.manager), project)
    for key in "7b":
        expect(page.locator("#said tbody tr")).to_have_count(2)
        page.keyboard.press(key)
        wait_until_saved(page)
    assert decisions(project) == [{"choice": 1, "strength": 3}, {"choice": "both_bad"}]
    assert page.inner_text("#today") == "2"
