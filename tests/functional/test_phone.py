"""A phone in the hand: real touches, as the browser's own gestures take them."""

import pytest
from playwright.sync_api import expect

from annotation import services
from annotation.models import Judgement
from tests.annotation import factories
from tests.functional.accessibility import NARROW, TOO_WIDE, violations
from tests.functional.conftest import judge_page, wait_until_saved
from tests.functional.pictures import picture_groups

pytestmark = pytest.mark.django_db(transaction=True)
expect.set_options(timeout=60_000)  # the machine may be busy
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
STEPS = 12


class Finger:
    """Touches a page as a person does; the browser scrolls, swipes and drags by itself."""

    def __init__(self, page) -> None:
        self.page, self.session = page, page.context.new_cdp_session(page)

    def send(self, kind: str, *points: tuple[float, float]) -> None:
        touches = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self.session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.send("touchStart", start)
        for step in range(1, STEPS + 1):
            self.send("touchMove", tuple(a + (b - a) * step / STEPS for a, b in zip(start, end, strict=True)))
            self.page.wait_for_timeout(16)
        self.send("touchEnd")

    def spread(self, middle: tuple[float, float], by: float) -> None:
        """Two fingers move away from each other."""
        x, y = middle
        self.send("touchStart", (x - 20, y), (x + 20, y))
        for step in range(1, STEPS + 1):
            away = 20 + by * step / STEPS
            self.send("touchMove", (x - away, y), (x + away, y))
            self.page.wait_for_timeout(16)
        self.send("touchEnd")


def shown(page) -> int:
    """Which candidate is on the screen."""
    lefts = page.locator(".candidate").evaluate_all("all => all.map(one => one.getBoundingClientRect().left)")
    return min(range(len(lefts)), key=lambda i: abs(lefts[i]))


def middle_of(box) -> tuple[float, float]:
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def pressed_tab(page, number: int) -> None:
    page.wait_for_selector(f"#tabs button:nth-child({number})[aria-pressed=true]")


def test_swipe_and_tap(open_page, world):
    page = judge_page(open_page(world.annotator, **PHONE), world.texts)
    finger = Finger(page)
    finger.drag((300, 300), (40, 310))
    pressed_tab(page, 2)
    assert shown(page) == 1
    finger.drag((60, 300), (320, 300))
    pressed_tab(page, 1)
    assert shown(page) == 0
    page.tap("button[value='7']")
    expect(page.locator("#prompt .prose")).to_have_text("Question 1?")
    wait_until_saved(page)
    row = Judgement.objects.get()
    assert (row.order.index(row.choice), row.strength) == (1, 3)


def test_a_long_text_scrolls_and_does_not_swipe(open_page, world):
    long = "\n\n".join(f"Paragraph {n} of many." for n in range(60))
    project = factories.make_project(by=world.manager)
    groups = [{"prompt": "?", "candidates": [{"text": long}, {"text": long}]} for _ in range(2)]
    services.add_comparisons(project=project, groups=groups)
    page = judge_page(open_page(world.manager, **PHONE), project)
    Finger(page).drag((180, 420), (190, 200))
    page.wait_for_function("document.querySelector('.scroll').scrollTop > 60")
    assert shown(page) == 0


def test_pictures_swipe_and_zoom(open_page, world):
    """Two fingers zoom all pictures, one moves them while they are large, and swipes when they fit."""
    page = judge_page(open_page(world.annotator, **PHONE), world.pictures)
    finger = Finger(page)
    finger.drag((300, 300), (40, 300))
    pressed_tab(page, 2)
    box = page.locator(".box").nth(1).bounding_box()
    finger.spread((180, box["y"] + box["height"] / 2), 80)
    scale = "image => new DOMMatrix(getComputedStyle(image).transform).a"
    scales = [image.evaluate(scale) for image in page.locator(".box img").all()]
    assert scales[0] == scales[1] > 1.5
    before = page.locator(".box img").first.evaluate("image => image.style.transform")
    finger.drag((200, 300), (120, 300))
    assert page.locator(".box img").first.evaluate("image => image.style.transform") != before
    assert shown(page) == 1


def test_ranking_by_a_finger(open_page, world):
    project = factories.make_project(by=world.manager, questions=[{"type": "ranking"}])
    services.add_comparisons(project=project, groups=factories.text_groups(1, k=3))
    page = open_page(world.manager, f"/projects/{project.pk}/judge/", **PHONE)
    page.wait_for_selector("main[data-ready]")
    for position in ("2", "0"):
        page.tap(f".chip[data-candidate='{position}']")
    page.evaluate("document.querySelector('.work').scrollTop = 9999")
    page.wait_for_timeout(300)  # until touches are taken where things are drawn
    chip, rank = (
        page.locator(selector).bounding_box()
        for selector in (".unranked .chip[data-candidate='1']", ".ranks li:last-child .chip")
    )
    Finger(page).drag(middle_of(chip), middle_of(rank))
    expect(page.locator(".ranks .chip")).to_have_count(3)
    page.wait_for_timeout(300)
    page.tap(".submit")
    page.wait_for_selector("#idle:visible")
    wait_until_saved(page)
    (row,) = Judgement.objects.filter(comparison__project=project)
    assert [sorted(row.order.index(i) for i in rank) for rank in row.answers["ranking"]] == [[2], [0, 1]]


QUESTIONS = [
    [{"type": "choice"}],
    [{"type": "choice", "worst": True}, {"type": "critique"}],
    [{"type": "ranking"}, {"type": "tags", "options": [{"name": "rude"}]}],
    [
        {
            "type": "ratings",
            "aspects": [{"name": "stars", "scale": "stars", "min": 0}, {"name": "clear", "max": 7}],
        }
    ],
    [{"type": "aspects", "aspects": [{"name": "helpful"}]}, {"type": "thumbs"}],
    [{"type": "marks", "kinds": ["span", "step"], "categories": [{"name": "wrong"}]}, {"type": "correction"}],
]


def test_every_form_fits_320_pixels(open_page, world):
    """Nothing sticks out, and what is pressed is 24 pixels large at least (WCAG 1.4.10 and 2.5.8)."""
    page = open_page(world.manager, **PHONE | {"viewport": {"width": NARROW, "height": 640}})
    found = {}
    for questions in QUESTIONS:
        name = ", ".join(question["type"] for question in questions)
        project = factories.make_project(by=world.manager, name=name, questions=questions)
        services.add_comparisons(project=project, groups=factories.text_groups(1, k=4))
        page.goto(f"/projects/{project.pk}/judge/")
        page.wait_for_selector("main[data-ready]")
        found[name] = violations(page) + page.evaluate(TOO_WIDE, NARROW)
    assert {name: problems for name, problems in found.items() if problems} == {}


@pytest.mark.parametrize("language", ["de", "ar"])
def test_languages_open_within_the_screen(open_page, world, language):
    page = judge_page(open_page(world.annotator, locale=language, **PHONE), world.texts)
    page.locator(".status details:has(.languages) summary").click()
    box = page.locator(".status .pop").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    page.locator(".languages button[value=en]").click()
    page.wait_for_selector("html[lang=en]")


RATED = [{"type": "ratings", "aspects": [{"name": name} for name in ("helpful", "true", "kind")]}]


def rating_page(open_page, world, group: dict, **values):
    project = factories.make_project(by=world.manager, questions=RATED, **values)
    services.add_comparisons(project=project, groups=[group])
    page = open_page(world.manager, f"/projects/{project.pk}/judge/", **PHONE)
    page.wait_for_selector("main[data-ready]")
    return page


def test_the_form_follows_short_answers(open_page, world):
    group = {"prompt": "Is it?", "candidates": [{"text": "Yes."}, {"text": "No."}]}
    page = rating_page(open_page, world, group)
    text = (
        page.locator(".candidate").first.get_by_text("Yes.").or_(page.get_by_text("No.")).first.bounding_box()
    )
    empty = page.locator(".questions").bounding_box()["y"] - (text["y"] + text["height"])
    assert 0 <= empty <= 48
    send = page.locator(".send").bounding_box()
    assert send["y"] + send["height"] > 680  # what is left over is below the form


def test_long_answers_keep_half_the_screen_and_tabs_stay(open_page, world):
    """At the form's end the tabs are there, and a tap on one brings its answer into view."""
    long = "A long sentence that goes on. " * 120
    group = {"prompt": "Which?", "candidates": [{"text": long}, {"text": long}]}
    page = rating_page(open_page, world, group)
    assert page.locator("#panels").bounding_box()["height"] == pytest.approx(0.46 * 740, abs=2)
    page.locator(".questions .option").last.scroll_into_view_if_needed()
    page.locator(".work").evaluate("work => work.scrollTo(0, work.scrollHeight)")
    tabs = page.locator("#tabs").bounding_box()
    assert tabs["y"] == pytest.approx(page.locator(".work").bounding_box()["y"], abs=1)
    page.locator("#tabs button").nth(1).tap()
    pressed_tab(page, 2)
    page.wait_for_function(
        "() => { const [panels, tabs] = ['#panels', '#tabs'].map(s => document.querySelector(s)"
        ".getBoundingClientRect()); return panels.top >= tabs.bottom - 3; }"
    )
    assert shown(page) == 1


def test_pictures_keep_half_the_screen(open_page, world):
    page = rating_page(open_page, world, picture_groups(1)[0], modality="image")
    assert page.locator("#panels").bounding_box()["height"] >= 0.46 * 740 - 2
