"""The judging page in a browser: by keyboard alone, over a bad line, without scripts, on a phone."""

import random

import pytest
from playwright.sync_api import expect

from annotation import services
from annotation.models import Judgement, Lease
from tests.annotation import factories
from tests.annotation.conftest import page_client
from tests.functional.conftest import PASSWORD, SECRET, judge_page, let_requests_end, wait_until_saved

pytestmark = pytest.mark.django_db(transaction=True)
expect.set_options(timeout=60_000)  # the machine may be busy

LEFT, RIGHT = 0, 1
MEANING = {"1": (LEFT, 3), "2": (LEFT, 2), "3": (LEFT, 1), "0": ("tie", None), "4": ("tie", None),
           "5": (RIGHT, 1), "6": (RIGHT, 2), "7": (RIGHT, 3), "b": ("both_bad", None)}  # fmt: skip


def answers_of(user) -> list[tuple]:
    """Standing answers in the order given, as they were presented."""
    rows = Judgement.objects.standing().filter(annotator=user).order_by("created_at")
    return [
        (row.order.index(row.choice) if isinstance(row.choice, int) else row.choice, row.strength)
        for row in rows
    ]


def press(page, keys: str) -> None:
    """Each key answers one comparison, and the next is there at once."""
    for key in keys:
        before = page.inner_text("#prompt .prose")
        page.keyboard.press(key)
        expect(page.locator("#prompt .prose")).not_to_have_text(before)


def shows(page, prompt: str) -> None:
    expect(page.locator("#prompt .prose")).to_have_text(prompt)


def test_keyboard_alone(open_page, world, watch):
    """Sign in, find the work, judge five texts and five pictures, take one back; never a mouse."""
    page = open_page(None, "/sign-in/")
    page.keyboard.type("anna")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Projects')")
    for project, keys in ((world.texts, "160b3"), (world.pictures, "72054")):
        page.goto("/")
        label = f"Judge {project.name}"
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == label:
                break
        page.keyboard.press("Enter")
        page.wait_for_selector("main[data-ready]")
        press(page, keys)
        wait_until_saved(page)
        assert answers_of(world.annotator)[-5:] == [MEANING[key] for key in keys]
    last = page.inner_text("#prompt .prose")
    page.keyboard.press("z")
    shows(page, "a red disc, number 4")
    assert len(answers_of(world.annotator)) == 9
    press(page, "7")
    assert page.inner_text("#prompt .prose") == last
    wait_until_saved(page)
    assert answers_of(world.annotator)[-1] == MEANING["7"]
    assert page.inner_text("#today") == "5"


def test_nothing_names_the_source(open_page, world, watch):
    page = judge_page(open_page(world.annotator), world.texts)
    press(page, "167")
    page.keyboard.press("h")
    page.wait_for_selector("#history li")
    wait_until_saved(page)
    let_requests_end(page, watch)
    judge_page(page, world.pictures)
    press(page, "16")
    wait_until_saved(page)
    let_requests_end(page, watch)
    assert sum("/judgement/" in url for url, _ in watch.bodies) == 5
    assert any("/media/" in url for url, _ in watch.bodies)
    assert [url for url, body in watch.bodies if SECRET.encode() in body] == []


def test_next_comes_with_the_reply(open_page, world):
    """One request for each judgement: the reply carries the comparison behind the one that is shown."""
    page = judge_page(open_page(world.annotator), world.texts)
    asked = []
    page.on("request", lambda request: request.method == "POST" and asked.append(request.url))
    press(page, "1616")
    wait_until_saved(page)
    assert [url.split("/api/v1/")[1].split("/")[0] for url in asked] == ["leases"] * 4


def test_line_that_drops(open_page, world, watch):
    """Two answers are given while nothing gets through; they arrive once the line is back, once each."""
    watch.expected = ("ERR_FAILED", "ERR_INTERNET_DISCONNECTED")
    page = judge_page(open_page(world.annotator), world.texts)
    page.route("**/api/v1/**", lambda route: route.abort())
    page.keyboard.press("1")
    page.keyboard.press("6")
    page.wait_for_selector("#saved.retrying")
    assert "answers kept here: 2" in page.inner_text("#saved")
    assert "this device" in page.inner_text("#idle-text")
    assert answers_of(world.annotator) == []
    page.unroute("**/api/v1/**")
    page.evaluate("dispatchEvent(new Event('online'))")
    wait_until_saved(page)
    assert answers_of(world.annotator) == [MEANING["1"], MEANING["6"]]
    page.wait_for_selector("#work:visible")


def test_reply_that_is_lost(open_page, world, watch):
    """The server stored the answer, but its reply never arrived: the second attempt changes nothing."""
    watch.expected = ("ERR_FAILED",)
    page = judge_page(open_page(world.annotator), world.texts)
    sent = []

    def lose_the_first(route):
        sent.append(route.request.post_data_json["client_id"])
        if len(sent) > 1:
            return route.continue_()
        route.fetch()
        return route.abort()

    page.route("**/judgement/**", lose_the_first)
    page.keyboard.press("7")
    page.wait_for_selector("#saved.retrying")
    page.keyboard.press("z")  # waits for the reply, because the answer may have arrived
    wait_until_saved(page)
    assert sent[0] == sent[1]
    shows(page, "Question 0?")
    assert answers_of(world.annotator) == []
    assert Judgement.objects.count() == 1


def test_reload_in_the_middle(open_page, world, watch):
    """What was said before a reload is sent after it, and is not asked again."""
    watch.expected = ("ERR_FAILED",)
    page = judge_page(open_page(world.annotator), world.texts)
    press(page, "1")
    wait_until_saved(page)
    let_requests_end(page, watch)
    page.route("**/api/v1/**", lambda route: route.abort())
    page.keyboard.press("7")
    page.wait_for_selector("#saved.retrying")
    page.unroute("**/api/v1/**")
    page.reload()
    wait_until_saved(page)
    page.wait_for_selector("#work:visible")
    shows(page, "Question 2?")
    assert answers_of(world.annotator) == [MEANING["1"], MEANING["7"]]


def test_undo_before_it_was_sent(open_page, world, watch):
    """An answer that still waits in line is taken back on this device alone."""
    watch.expected = ("ERR_FAILED",)
    page = judge_page(open_page(world.annotator), world.texts)
    page.route("**/api/v1/**", lambda route: route.abort())
    page.keyboard.press("1")
    page.keyboard.press("7")
    page.wait_for_selector("#saved.retrying")
    page.keyboard.press("z")
    page.wait_for_selector("#work:visible")
    shows(page, "Question 1?")
    page.keyboard.press("2")
    page.unroute("**/api/v1/**")
    page.evaluate("dispatchEvent(new Event('online'))")
    wait_until_saved(page)
    assert answers_of(world.annotator) == [MEANING["1"], MEANING["2"]]
    assert Judgement.objects.count() == 2


def test_skip_with_a_reason(open_page, world):
    page = judge_page(open_page(world.annotator), world.texts)
    page.keyboard.press("s")
    page.keyboard.type("needs a lawyer 5")  # typed, not judged
    page.keyboard.press("Enter")
    shows(page, "Question 1?")
    wait_until_saved(page)
    assert Lease.objects.get(state="skipped").skip_reason == "needs a lawyer 5"
    assert answers_of(world.annotator) == []


def test_undo_from_an_earlier_visit(open_page, world):
    page = judge_page(open_page(world.annotator), world.texts)
    press(page, "1")
    wait_until_saved(page)
    page.reload()
    page.wait_for_selector("main[data-ready]")
    page.keyboard.press("z")
    shows(page, "Question 0?")
    assert answers_of(world.annotator) == []


def test_to_the_end(open_page, world):
    """After the last comparison the page says that nothing is left, and looks again on request."""
    page = judge_page(open_page(world.annotator), world.texts)
    press(page, "1" * 7)
    page.keyboard.press("1")
    page.wait_for_selector("#idle:visible:has-text('Nothing is left')")
    wait_until_saved(page)
    services.add_comparisons(project=world.texts, groups=factories.text_groups(1, start=50))
    page.click("#again")
    shows(page, "Question 50?")


def test_refused_answer_is_explained(open_page, world, watch):
    """The comparison was answered in another window meanwhile: one sentence, and the work goes on."""
    watch.expected = ("409",)
    page = judge_page(open_page(world.annotator), world.texts)
    lease = Lease.objects.order_by("created_at").first()
    client = page_client(world.annotator)
    body = {"client_id": "7b0c3a52-3c1f-4f0e-9a53-2f5d9e0c7a11", "choice": 0}
    assert (
        client.post(
            f"/api/v1/leases/{lease.pk}/judgement/", body, content_type="application/json"
        ).status_code
        == 201
    )
    page.keyboard.press("7")
    page.wait_for_selector("#saved.refused")
    assert "no longer in your hands" in page.inner_text("#saved")
    shows(page, "Question 1?")
    assert len(answers_of(world.annotator)) == 1


def test_signed_out_in_the_middle(open_page, world, watch):
    """The session ended: the answer waits on this device until the same person has signed in again."""
    watch.expected = ("401", "403")
    page = judge_page(open_page(world.annotator), world.texts)
    cookies = page.context.cookies()
    page.context.clear_cookies()
    page.keyboard.press("7")
    page.wait_for_selector("#saved a:has-text('sign in again')")
    assert answers_of(world.annotator) == []
    page.context.add_cookies(cookies)
    page.reload()
    wait_until_saved(page)
    assert answers_of(world.annotator) == [MEANING["7"]]


def test_without_scripts(open_page, world):
    """The same page as plain forms: answer, skip, undo."""
    page = open_page(world.annotator, f"/projects/{world.texts.pk}/judge/", java_script_enabled=False)
    page.click("button[value='6']")
    shows(page, "Question 1?")
    page.click("#skip summary")
    page.fill("#skip-reason", "unclear")
    page.click("#skip button")
    shows(page, "Question 2?")
    assert answers_of(world.annotator) == [MEANING["6"]]
    page.click("#undo")
    shows(page, "Question 0?")
    assert answers_of(world.annotator) == []


def test_four_answers_and_messages(open_page, world):
    """More than two candidates: one digit each. The prompt may be a conversation."""
    groups = factories.text_groups(2, k=4)
    groups[0]["prompt"] = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes?"}]
    project = factories.make_project(by=world.manager, name="Four")
    services.add_comparisons(project=project, groups=groups)
    page = judge_page(open_page(world.manager), project)
    assert page.locator(".candidate").count() == 4
    assert page.locator(".turn").count() == 2
    press(page, "4")
    wait_until_saved(page)
    assert answers_of(world.manager) == [(3, None)]


def test_differences(open_page, world):
    project = factories.make_project(by=world.manager, name="Words")
    texts = ("The *quick* brown fox jumps.", "The *slow* brown fox jumps high.")
    groups = [{"prompt": "?", "candidates": [{"text": text} for text in texts]}]
    services.add_comparisons(project=project, groups=groups)
    page = judge_page(open_page(world.manager), project)
    page.keyboard.press("d")
    assert sorted(page.locator("mark").all_inner_texts()) == ["high", "quick", "slow"]
    assert page.locator("em mark").count() == 2  # the markup stays
    page.keyboard.press("d")
    assert page.locator("mark").count() == 0


def test_a_dozen_answers(open_page, world):
    """More candidates than digits: the rest is chosen by its button."""
    project = factories.make_project(by=world.manager, name="Dozen")
    services.add_comparisons(project=project, groups=factories.text_groups(2, k=12))
    page = judge_page(open_page(world.manager), project)
    page.click("#keys button:has-text('L')")
    shows(page, "Question 1?")
    page.keyboard.press("9")
    wait_until_saved(page)
    assert answers_of(world.manager) == [(11, None), (8, None)]


def longest_common(left: list[str], right: list[str]) -> int:
    """The length of the longest common subsequence, by the textbook's table."""
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_difference_is_smallest(open_page, world):
    """Without what is marked both texts are the same, and no fewer marks would do."""
    page = open_page(world.annotator)
    dice = random.Random(4)
    pairs = [[dice.choices("abc", k=dice.randrange(12)) for _ in range(2)] for _ in range(150)]
    module = "await import('/static/js/diff.js')"
    call = f"async pairs => {{ const diff = {module}; return pairs.map(pair => diff.difference(...pair)); }}"
    for (left, right), alone in zip(pairs, page.evaluate(call, pairs), strict=True):
        kept = [
            [word for word, only in zip(*side, strict=True) if not only]
            for side in zip((left, right), alone, strict=True)
        ]
        assert kept[0] == kept[1]
        assert len(kept[0]) == longest_common(left, right)


def test_pictures_zoom_together_and_flicker(open_page, world):
    page = judge_page(open_page(world.annotator), world.pictures)
    box = page.locator(".box").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    page.mouse.wheel(0, -400)
    transforms = page.locator(".box img").evaluate_all("images => images.map(image => image.style.transform)")
    assert transforms[0] == transforms[1]
    assert "scale(2.2" in transforms[0]  # e^0.8
    page.keyboard.press("f")
    places = "panels => panels.map(panel => panel.getBoundingClientRect().left)"
    still = page.locator(".candidate").evaluate_all(places)
    page.keyboard.down("Space")
    assert page.locator(".candidate").evaluate_all(places) == still[::-1]
    page.keyboard.up("Space")
    assert page.locator(".candidate").evaluate_all(places) == still


def test_phone(open_page, world):
    """One candidate at a time, a swipe or a tab to the other, the same seven choices."""
    page = open_page(world.annotator, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    judge_page(page, world.texts)
    seen = "e => e.getBoundingClientRect().left >= 0 && e.getBoundingClientRect().right <= innerWidth"
    assert [panel.evaluate(seen) for panel in page.locator(".candidate").all()] == [True, False]
    page.tap("#tabs button:nth-child(2)")
    page.wait_for_selector("#tabs button:nth-child(2)[aria-pressed=true]")
    assert [panel.evaluate(seen) for panel in page.locator(".candidate").all()] == [False, True]
    page.tap("button[value='7']")
    shows(page, "Question 1?")
    wait_until_saved(page)
    assert answers_of(world.annotator) == [MEANING["7"]]
    for button in page.locator("#keys button").all():
        assert button.bounding_box()["width"] >= 40
        assert button.bounding_box()["height"] >= 36


def test_what_a_screen_reader_is_told(open_page, world):
    page = judge_page(open_page(world.annotator), world.texts)
    names = [
        button.get_attribute("value") + " " + " ".join(button.inner_text().split()[1:])
        for button in page.locator("#keys button").all()
    ]
    assert names[0].startswith("1 A much")
    tree = page.locator("main").aria_snapshot()
    assert 'button "A much better"' in tree
    assert 'button "B slightly better"' in tree
    assert 'group "Answer A"' in tree
    page.keyboard.press("1")
    expect(page.locator("#announcer")).to_contain_text("Next comparison")
    assert page.evaluate("document.activeElement.id") == "prompt"


def test_keys_can_be_switched_off(open_page, world):
    page = judge_page(open_page(world.annotator), world.texts)
    page.keyboard.press("?")
    page.uncheck("#keys-on")
    page.click("#help button")
    page.keyboard.press("1")
    page.wait_for_timeout(200)
    shows(page, "Question 0?")
    page.click("button[value='1']")
    wait_until_saved(page)
    assert answers_of(world.annotator) == [MEANING["1"]]
