"""Every page of annotators and managers: accessible in light and dark, and no wider than a phone."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from annotation import services
from annotation.models import Judgement
from tests.annotation import factories
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


def addresses(project) -> list[str]:
    here = f"/projects/{project.pk}/"
    first = project.comparisons.order_by("rank").first()
    parts = [
        "",
        "settings/",
        "members/",
        "guidelines/",
        "judge/",
        "history/",
        "imports/",
        "exports/",
        "data/",
        "quality/",
    ]
    return ["/", "/projects/new/", "/nowhere/", *(here + part for part in parts), f"{here}data/{first.pk}/"]


def violations(page) -> list[str]:
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for rule in found
        for node in rule["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(open_page, busy, watch, scheme):
    world, project = busy
    watch.expected = ("404",)
    page = open_page(world.manager, color_scheme=scheme)
    found = {}
    for address in [*addresses(project), f"/projects/{world.pictures.pk}/judge/"]:
        page.goto(address)
        page.wait_for_load_state("networkidle")
        found[address] = violations(page)
    anonymous = open_page(None, "/sign-in/", color_scheme=scheme)
    found["/sign-in/"] = violations(anonymous)
    assert {address: rules for address, rules in found.items() if rules} == {}


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


def test_no_page_is_wider_than_a_phone(open_page, busy, watch):
    world, project = busy
    watch.expected = ("404",)
    page = open_page(world.manager, viewport={"width": 360, "height": 740})
    wide = {}
    for address in ["/sign-in/", *addresses(project), f"/projects/{world.pictures.pk}/judge/"]:
        page.goto(address)
        wide[address] = page.evaluate("document.documentElement.scrollWidth")
    assert {address: found for address, found in wide.items() if found > 360} == {}


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
