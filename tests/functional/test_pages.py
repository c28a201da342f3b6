"""The judging page accessible in every state, and what managers do on their pages."""

import pytest

from annotation import services
from annotation.models import Judgement
from tests.annotation import factories
from tests.functional.accessibility import violations
from tests.functional.conftest import judge_page

pytestmark = pytest.mark.django_db(transaction=True)

LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft " * 6


@pytest.fixture
def busy(world):
    """The world with judgements, an import with rejected rows, and texts that strain the layout."""
    groups = [
        {
            "prompt": LONG.replace(" ", ""),
            "candidates": [{"text": LONG}, {"text": "# Title\n\n| a | b |\n|-|-|\n|1|2|"}],
        },
        {"prompt": "كيف حالك؟", "candidates": [{"text": "بخير، شكرا"}, {"text": "```python\nprint(1)\n```"}]},
    ]
    project = factories.make_project(
        by=world.manager, name=LONG[:199], guidelines="# One\n\n- two", labels_per_comparison=2
    )
    services.add_member(project=project, username="anna", role="annotator", by=world.manager)
    services.add_comparisons(project=project, groups=groups)
    return world, project


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_judging_page_is_accessible_in_every_state(open_page, busy, scheme):
    world, project = busy
    page = judge_page(open_page(world.annotator, color_scheme=scheme), project)
    found = {"fresh": violations(page)}
    page.keyboard.press("d")
    page.keyboard.press("g")
    found["guidelines and differences"] = violations(page)
    page.keyboard.press("h")
    page.wait_for_selector("#history p, #history li")
    page.keyboard.press("s")
    found["history and skip"] = violations(page)
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    found["keys"] = violations(page)
    page.click("#help button")
    page.click("button[value='1']")
    page.click("button[value='1']")
    page.wait_for_selector("#idle:visible")
    found["nothing left"] = violations(page)
    assert {state: rules for state, rules in found.items() if rules} == {}


def test_everything_by_keyboard(open_page, world):
    """Each control of the manager's pages can be reached by Tab and shows that it has the focus."""
    page = open_page(world.manager, f"/projects/{world.texts.pk}/members/")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        state = page.evaluate(
            "() => { const e = document.activeElement, s = getComputedStyle(e);"
            " const name = e.tagName === 'BODY' ? 'BODY' : e.name || e.textContent.trim();"
            " return [name, s.outlineStyle, parseFloat(s.outlineWidth)]; }"
        )
        if state[0] == "BODY":
            break
        reached.add(state[0])
        assert state[1] != "none", state
        assert state[2] >= 1, state
    assert {"Save", "username", "role", "Make a link", "invite-role", "Overview"} <= reached


def test_new_project_with_preview(open_page, world):
    page = open_page(world.manager, "/")
    page.click("text=New project")
    page.fill("[name=name]", "Poems")
    page.fill("[name=guidelines]", "Rhymes are **not** everything. <script>alert(1)</script>")
    page.wait_for_selector("#preview strong:has-text('not')")
    assert page.locator("#preview script").count() == 0
    page.click("text=Create project")
    page.wait_for_selector(".notice:has-text('Next: import')")


def test_an_invited_person_joins_and_judges(open_page, world, live_server):
    page = open_page(world.manager, f"/projects/{world.texts.pk}/members/")
    page.click("button:has-text('Make a link')")
    link = page.inner_text(".secret")
    visitor = open_page(None, link)
    visitor.fill("[name=username]", "newcomer")
    visitor.fill("[name=password]", "correct horse battery")
    visitor.click("button:has-text('Make an account and join')")
    visitor.click("main a:has-text('Start judging')")
    visitor.wait_for_selector("main[data-ready]")
    visitor.keyboard.press("1")
    visitor.wait_for_selector("#saved:has-text('saved')")
    assert Judgement.objects.get().annotator.username == "newcomer"


def test_import_with_rejected_rows(open_page, world, tmp_path):
    """An upload, its progress, the state that refreshes itself, and what was wrong with each row."""
    file = tmp_path / "rows.jsonl"
    good = '{"prompt": "p", "chosen": "c", "rejected": "r"}\n'
    file.write_text(good + '{"prompt": "p", "chosen": "c"}\nnot json\n')
    page = open_page(world.manager, f"/projects/{world.texts.pk}/imports/")
    page.set_input_files("[name=file]", file)
    page.click("button:has-text('Import')")
    page.wait_for_selector("#import .badge:has-text('queued')")
    job = world.texts.importjobs.get()
    services.run_import(job.pk)
    page.wait_for_selector("#import .badge:has-text('done')")
    page.wait_for_selector("td:has-text('rejected')")
    assert page.locator("#import tbody tr").count() == 2
    with page.expect_download() as download:
        page.click("text=Download all 2")
    assert download.value.path().read_text().splitlines()[0] == "line,field,reason"


def test_refused_upload_is_explained(open_page, world, watch, tmp_path):
    watch.expected = ("400",)
    file = tmp_path / "empty.jsonl"
    file.write_text("")
    page = open_page(world.manager, f"/projects/{world.texts.pk}/imports/")
    page.set_input_files("[name=file]", file)
    page.click("button:has-text('Import')")
    page.wait_for_selector(".errorlist:has-text('empty')")
