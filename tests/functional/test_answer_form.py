"""Around the form: drafts, a dropped line, changing what was said, one's own keys, and what is optional."""

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from annotation import services
from annotation.models import Judgement
from tests.annotation import factories
from tests.functional.accessibility import violations
from tests.functional.conftest import judge_page, wait_until_saved

pytestmark = pytest.mark.django_db(transaction=True)
expect.set_options(timeout=60_000)  # the machine may be busy

CHOICE = {"type": "choice"}
ASSISTANT = {"role": "assistant", "content": "Well."}
CRITIQUE = {"type": "critique", "required": True}
TAGS = {"type": "tags", "options": [{"name": "wrong_fact"}, {"name": "rude"}]}
MARKS = {"type": "marks", "kinds": ["span", "step"], "categories": [{"name": "wrong"}]}
ASPECTS = {"type": "aspects", "aspects": [{"name": "helpful"}]}
RATINGS = {"type": "ratings", "aspects": [{"name": "style", "scale": "stars", "labels": ["poor", "great"]}]}
RUBRIC = {"type": "rubric", "criteria": [{"name": "short", "text": "Is short"}]}


def project_with(world, questions, n=3, **group):
    project = factories.make_project(by=world.manager, questions=questions)
    groups = [one | group for one in factories.text_groups(n)]
    services.add_comparisons(project=project, groups=groups)
    return project


def standing(project) -> list[Judgement]:
    return list(Judgement.objects.standing().filter(comparison__project=project).order_by("pk"))


def test_a_draft_outlives_reload_and_dropped_line(open_page, world, watch):
    """What is half written survives a reload; what was submitted on a dropped line arrives once."""
    watch.expected = ("ERR_FAILED",)
    project = project_with(world, [CHOICE, CRITIQUE])
    page = judge_page(open_page(world.manager), project)
    page.keyboard.press("6")
    page.keyboard.type("A long thought, half")
    page.reload()
    page.wait_for_selector("main[data-ready]")
    expect(page.locator("textarea[name=critique]")).to_have_value("A long thought, half")
    expect(page.locator("#keys button[aria-pressed=true]")).to_have_attribute("value", "6")
    page.route("**/api/v1/**", lambda route: route.abort())
    page.focus("textarea[name=critique]")
    page.keyboard.press("End")
    page.keyboard.type(" and whole.")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#saved.retrying")
    page.unroute("**/api/v1/**")
    page.reload()
    wait_until_saved(page)
    (row,) = standing(project)
    assert row.answers == {"critique": "A long thought, half and whole."}
    assert (row.order.index(row.choice), row.strength) == (1, 2)
    drafts = f"localStorage.getItem('tiebreak:drafts:{world.manager.pk}')"
    assert page.evaluate(drafts) is None


def test_enter_says_what_is_lacking(open_page, world):
    project = project_with(world, [CHOICE, CRITIQUE | {"min_length": 10}], n=1)
    page = judge_page_at_end(open_page(world.manager), project)
    page.keyboard.press("Enter")
    expect(page.locator(".missing")).to_have_text("Still to answer: Which answer is better?")
    page.keyboard.press("1")
    page.keyboard.type("Short")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".missing")).to_have_text("The text needs at least 10 characters.")
    page.keyboard.type(" no more")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#idle:visible")
    wait_until_saved(page)
    assert standing(project)[0].answers == {"critique": "Short no more"}


def judge_page_at_end(page, project):
    page.goto(f"/projects/{project.pk}/judge/")
    page.wait_for_selector("main[data-ready]")
    return page


def test_change_from_the_history(open_page, world):
    """An earlier answer comes back with all that was said, in the order that was shown, to be given again."""
    project = project_with(world, [CHOICE, TAGS | {"required": True}])
    page = judge_page(open_page(world.manager), project)
    for keys in (["1", "ArrowUp", "ArrowDown", "1", "Enter"], ["7", "2", "Enter"]):
        before = page.inner_text("#prompt .prose")
        for key in keys:
            page.keyboard.press(key)
        expect(page.locator("#prompt .prose")).not_to_have_text(before)
    wait_until_saved(page)
    page.keyboard.press("h")
    page.click("#history li:last-child button")
    expect(page.locator("#prompt .prose")).to_have_text("Question 0?")
    expect(page.locator("#keys button[aria-pressed=true]")).to_have_attribute("value", "1")
    expect(page.locator("input[name='tags.']").first).to_be_checked()
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    expect(page.locator("#prompt .prose")).to_have_text("Question 2?")
    wait_until_saved(page)
    rows = {row.comparison.prompt: row for row in standing(project)}
    assert [(row.order.index(row.choice), row.strength) for _, row in sorted(rows.items())] == [
        (1, 1),
        (1, 3),
    ]
    assert rows["Question 0?"].answers == {"tags": ["wrong_fact"]}
    assert Judgement.objects.filter(comparison__project=project).count() == 3


def test_keys_of_ones_own(open_page, world):
    """Moved keys count everywhere; one key cannot mean two things."""
    page = open_page(world.manager, "/keys/")
    page.fill("#id_key_1", "s")
    page.click("button:has-text('Save')")
    page.wait_for_selector(".errorlist:has-text('is taken')")
    page.fill("#id_key_1", "é")
    page.click("button:has-text('Save')")
    page.wait_for_selector(".errorlist:has-text('one letter from a to z')")
    page.fill("#id_key_1", "q")
    page.click("button:has-text('Save')")
    page.wait_for_selector(".notice:has-text('Saved')")
    assert violations(page) == []
    judge_page(page, world.texts)
    assert page.locator("#keys button kbd").first.inner_text() == "Q"
    page.keyboard.press("1")  # means nothing any more
    page.keyboard.press("q")
    expect(page.locator("#prompt .prose")).to_have_text("Question 1?")
    wait_until_saved(page)
    (row,) = standing(world.texts)
    assert (row.order.index(row.choice), row.strength) == (0, 3)


def test_session_is_one_key_away(open_page, world):
    page = judge_page(open_page(world.manager), world.texts)
    for key in "16":
        page.keyboard.press(key)
    wait_until_saved(page)
    page.keyboard.press("t")
    expect(page.locator("[data-figure=count]")).to_have_text("2")
    assert page.locator("#session dd").nth(5).inner_text() == "1"  # days in a row
    page.select_option("[name=reminder]", "25")
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("7")
    wait_until_saved(page)
    assert len(standing(world.texts)) == 3


def both(text) -> dict:
    return {"candidates": [{"text": text}, {"text": text}]}


def suggest(project, questions) -> None:
    """What a model said about the project's comparison, shown beside it."""
    answer = {"choice": 0, "strength": 2} if CHOICE in questions else {}
    if answer:
        comparison = project.comparisons.get().pk
        rows = [{"comparison": comparison, "answer": answer}]
        services.add_suggestions(project=project, model="judge-1", suggestions=rows, now=timezone.now())
        services.update_project(project=project, show_suggestions=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_kind_is_accessible(open_page, world, scheme):
    """The form of every kind, begun and in use, on a wide screen and on a phone."""
    text = {"candidates": [{"text": "1. One and $x^2$.\n2. Two."}, {"text": "خمسة `code`"}]}
    templates = [
        [CHOICE, ASPECTS, RATINGS, CRITIQUE, {"type": "context", "text": "Be **kind**."}],
        [{"type": "ranking"}, {"type": "thumbs"}, RUBRIC, TAGS],
        [MARKS, {"type": "correction"}, CHOICE],
        [{"type": "turns"}, {"type": "correction"}],
    ]
    chat = [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "And?"}, ASSISTANT]
    found = {}
    for number, questions in enumerate(templates):
        is_chat = questions[0]["type"] == "turns"
        project = project_with(world, questions, n=1, **(both(chat) if is_chat else text))
        suggest(project, questions)
        page = judge_page_at_end(open_page(world.manager, color_scheme=scheme), project)
        for key in (["6", "1"], ["2"], ["j", "1", "c"], ["1", "0", "c"])[number]:
            page.keyboard.press(key)
        found[f"{number} wide"] = violations(page)
        page.set_viewport_size({"width": 360, "height": 740})
        found[f"{number} phone"] = violations(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert {state: rules for state, rules in found.items() if rules} == {}


def test_phone_shows_one_at_a_time(open_page, world):
    """A swipe goes to the other answer; the form below it takes taps."""
    project = project_with(world, [CHOICE, TAGS | {"required": True}], n=1)
    page = open_page(world.manager, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    judge_page_at_end(page, project)
    seen = "e => e.getBoundingClientRect().left >= 0 && e.getBoundingClientRect().right <= innerWidth"
    page.locator("#panels").evaluate(
        "panels => panels.scrollBy({left: panels.clientWidth})"
    )  # what a swipe does
    page.wait_for_selector("#tabs button:nth-child(2)[aria-pressed=true]")
    assert [panel.evaluate(seen) for panel in page.locator(".candidate").all()] == [False, True]
    page.tap("#keys button[value='7']")
    page.tap("label:has-text('Rude')")
    page.tap(".submit")
    page.wait_for_selector("#idle:visible")
    wait_until_saved(page)
    (row,) = standing(project)
    assert (row.order.index(row.choice), row.strength, row.answers) == (1, 3, {"tags": ["rude"]})


def test_arabic_stands_on_the_right(open_page, world):
    project = project_with(
        world,
        [CHOICE],
        n=1,
        prompt="كيف حالك؟",
        candidates=[{"text": "بخير، شكرا"}, {"text": "Fine, thanks"}],
    )
    page = judge_page_at_end(open_page(world.manager), project)
    direction = "e => getComputedStyle(e).direction"
    assert page.locator("#prompt .prose").evaluate(direction) == "rtl"
    by_text = {
        panel.inner_text(): panel.evaluate(direction) for panel in page.locator(".candidate .prose").all()
    }
    assert by_text == {"بخير، شكرا": "rtl", "Fine, thanks": "ltr"}


def test_ranking_by_dragging(open_page, world):
    """Onto a rank it is shared; the chip that was dragged stays where it was dropped."""
    project = factories.make_project(by=world.manager, questions=[{"type": "ranking"}])
    services.add_comparisons(project=project, groups=factories.text_groups(1, k=3))
    page = judge_page_at_end(open_page(world.manager), project)
    page.click(".chip[data-candidate='1']")
    page.click(".chip[data-candidate='0']")
    page.drag_and_drop(".chip[data-candidate='2']", ".ranks li:first-child .chip")
    page.click(".submit")
    page.wait_for_selector("#idle:visible")
    wait_until_saved(page)
    (row,) = standing(project)
    shown = [sorted(row.order.index(i) for i in rank) for rank in row.answers["ranking"]]
    assert shown == [[1, 2], [0]]


def test_editing_a_template_beside_its_preview(open_page, world):
    """Questions are added, moved and filled in; the preview follows, errors stand at their fields."""
    factories.judge(world.annotator, world.texts)
    page = open_page(world.manager, f"/projects/{world.texts.pk}/settings/")
    page.wait_for_selector(".work.preview:not([inert])")
    assert "This is version 1 of the questions." in page.inner_text("main")
    page.select_option("#add-kind", "tags")
    page.click("#add-question")
    page.wait_for_selector("#template-preview :text('Off topic')")
    page.fill("[name='questions.1.options.0.title']", "It is false")
    page.wait_for_selector("#template-preview :text('It is false')")
    page.fill("[name='questions.1.options.1.name']", "two words")
    page.wait_for_selector("#errors-id_questions_1_options_1_name li")
    page.fill("[name='questions.1.options.1.name']", "rude")
    page.wait_for_selector("#template-preview .preview")
    page.click("#up-tags")
    page.wait_for_selector(".edited:first-child legend:has-text('Reasons')")
    page.wait_for_selector(".work.preview:not([inert])")
    page.locator("#template-preview .key").first.click()  # tried out; nothing is sent
    assert violations(page) == []
    page.click("button:has-text('Save')")
    page.wait_for_selector(".notice:has-text('Saved')")
    world.texts.refresh_from_db()
    assert [question["type"] for question in world.texts.questions] == ["tags", "choice"]
    assert world.texts.questions[0]["options"] == [
        {"name": "wrong_fact", "title": "It is false"},
        {"name": "rude", "title": "Rude"},
    ]
    assert world.texts.template_version == 2
    assert Judgement.objects.get().template_version == 1
