"""What somebody needs who judges for hours: linked texts and pictures, guidelines beside the work, a dead
line, motion that can be switched off."""

import pytest
from playwright.sync_api import expect

from annotation import services
from annotation.models import Judgement
from tests.annotation import factories
from tests.functional.conftest import judge_page, wait_until_saved

pytestmark = pytest.mark.django_db(transaction=True)
expect.set_options(timeout=60_000)  # the machine may be busy

LONG = "\n\n".join(f"Paragraph {n}: " + "words that go on and on " * 12 for n in range(30))
SCROLLED = "panels => panels.map(panel => panel.scrollTop)"
TOGETHER = """least => {
    const [left, right] = [...document.querySelectorAll(".candidate .scroll")].map(panel => panel.scrollTop);
    return left === right && left > least;
}"""
TRANSFORMS = "images => images.map(image => image.style.transform)"


def texts(world, *answers: str, n: int = 2, **values):
    project = factories.make_project(by=world.manager, name="Texts", **values)
    groups = [
        {"prompt": f"Question {i}? {LONG[:600]}", "candidates": [{"text": a} for a in answers]}
        for i in range(n)
    ]
    services.add_comparisons(project=project, groups=groups)
    return project


def test_texts_scroll_together(open_page, world):
    page = judge_page(open_page(world.manager), texts(world, LONG, LONG + LONG))
    panels = page.locator(".candidate .scroll")
    page.keyboard.press("Space")
    page.wait_for_function(f"({TOGETHER})(200)")
    first, _second = panels.evaluate_all(SCROLLED)
    page.keyboard.press("ArrowUp")
    page.wait_for_function("before => document.querySelector('.scroll').scrollTop < before", arg=first)
    panels.nth(1).hover()
    page.mouse.wheel(0, 500)
    page.wait_for_function(f"before => ({TOGETHER})(before + 100)", arg=first)
    expect(page.locator("#prompt")).to_have_class("prompt folded")  # one line while the answers are read
    page.keyboard.press("1")
    expect(page.locator("#prompt .prose")).to_contain_text("Question 1?")
    assert panels.evaluate_all(SCROLLED) == [0, 0]  # each comparison begins at its beginning
    expect(page.locator("#prompt")).to_have_class("prompt")


def test_pictures_move_together(open_page, world):
    """By arrows, by the mouse, and back to fit; zooming stops at the picture's edge."""
    page = judge_page(open_page(world.annotator), world.pictures)
    images = page.locator(".box img")
    for _ in range(5):
        page.keyboard.press("+")
    before = images.evaluate_all(TRANSFORMS)
    page.keyboard.press("ArrowLeft")
    after = images.evaluate_all(TRANSFORMS)
    assert after[0] == after[1] != before[0]
    box = page.locator(".box").nth(1).bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1] + 40)
    page.mouse.up()
    dragged = images.evaluate_all(TRANSFORMS)
    assert dragged[0] == dragged[1] != after[0]
    page.keyboard.press("f")
    assert images.evaluate_all(TRANSFORMS) == ["", ""]
    page.mouse.dblclick(*middle)
    assert "scale(3)" in images.evaluate_all(TRANSFORMS)[0]
    page.keyboard.press("1")  # the next pictures fit again
    expect(page.locator("#prompt .prose")).to_have_text("a red disc, number 1")
    assert images.evaluate_all(TRANSFORMS) == ["", ""]


def test_guidelines_beside_the_work(open_page, world):
    """They stay open from one comparison to the next, and every key works as before."""
    page = judge_page(open_page(world.annotator), world.texts)
    page.keyboard.press("g")
    drawer = page.locator("#drawer")
    expect(drawer).to_contain_text("Choose what helps more.")
    panels, beside = page.locator("#panels").bounding_box(), drawer.bounding_box()
    assert panels["x"] + panels["width"] <= beside["x"] + 1  # nothing is covered
    page.keyboard.press("6")
    expect(page.locator("#prompt .prose")).to_have_text("Question 1?")
    expect(drawer).to_be_visible()
    page.keyboard.press("g")
    expect(drawer).to_be_hidden()
    wait_until_saved(page)
    assert Judgement.objects.count() == 1


def test_a_dead_line(open_page, world, watch):
    """The network is gone for real: the comparison at hand and the next are answered, and nothing is lost."""
    watch.expected = ("ERR_INTERNET_DISCONNECTED",)
    page = judge_page(open_page(world.annotator), world.texts)
    page.context.set_offline(True)
    page.keyboard.press("1")
    expect(page.locator("#prompt .prose")).to_have_text("Question 1?")
    page.keyboard.press("s")
    page.keyboard.type("unclear")
    page.keyboard.press("Enter")
    page.wait_for_selector("#saved.retrying:has-text('answers kept here: 2')")
    page.keyboard.press("z")  # the first was sent, or may have been: it has to wait for the line
    page.wait_for_timeout(200)
    page.context.set_offline(False)
    wait_until_saved(page)
    expect(page.locator("#prompt .prose")).to_have_text("Question 0?")
    assert Judgement.objects.standing().count() == 0
    assert Judgement.objects.count() == 1
    page.keyboard.press("7")
    wait_until_saved(page)
    row = Judgement.objects.standing().get()
    assert (row.order.index(row.choice), row.strength) == (1, 3)


def test_a_very_long_answer_is_sent(open_page, world):
    """Browsers keep no more than 64 KiB alive behind a page that is left; a longer correction arrives too."""
    project = texts(world, "short", "also short", n=1, questions=[{"type": "correction", "required": True}])
    page = open_page(world.manager, f"/projects/{project.pk}/judge/")
    page.wait_for_selector("main[data-ready]")
    page.keyboard.press("c")
    longer = "Ünïcöde " * 5000
    page.locator("textarea:visible").fill(longer)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#idle:visible")
    wait_until_saved(page)
    (row,) = Judgement.objects.filter(comparison__project=project)
    assert longer in row.answers["corrections"]


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_motion(open_page, world, motion):
    """A hint that something changed, for 120 ms at most, and none for who does not want any."""
    page = judge_page(open_page(world.annotator, reduced_motion=motion), world.texts)
    page.keyboard.press("1")
    expect(page.locator("#prompt .prose")).to_have_text("Question 1?")
    seconds = page.evaluate(
        "() => [...document.querySelectorAll('*')].flatMap(one => { const style = getComputedStyle(one);"
        " return [style.animationDuration, style.transitionDuration].map(parseFloat) })"
    )
    assert (max(seconds) == 0) if motion == "reduce" else (0 < max(seconds) <= 0.12)
