"""The training pages in a browser: live curves, accessible in light and dark, no wider than a phone."""

import pytest
from playwright.sync_api import expect

from tests.functional.accessibility import Walk
from tests.training import factories
from tests.training.test_views import PREVIEW
from training.models import Metric, Run

pytestmark = pytest.mark.django_db(transaction=True)

LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
PATIENCE = 60_000  # ms


@pytest.fixture
def trained(world, tmp_path):
    """A project with runs in every state, a model made here, a match and long words; its addresses."""
    project = world.texts
    factories.add_judged(project, prompts=4, start=50)
    base = factories.make_base(tmp_path / "tiny", by=world.manager)
    done = factories.queued_run(project, base)
    factories.log_metrics(done)
    checkpoint = factories.finish(
        done, **{"eval/accuracy_majority": 0.8, "eval/accuracy_low": 0.7, "eval/accuracy_high": 0.9}
    )
    samples = [{"when": "before", "step": 0, "prompt": LONG, "text": LONG * 3}]
    Run.objects.filter(pk=done.pk).update(preview=PREVIEW, samples=samples, log_tail=f"{LONG}\n" * 9)
    failed = factories.queued_run(project, base)
    Run.objects.filter(pk=failed.pk).update(status="failed", error=LONG * 2)
    other = factories.queued_run(project, base)
    factories.log_metrics(other)
    factories.finish(other)
    draft = factories.queued_run(project, base)
    Run.objects.filter(pk=draft.pk).update(status="draft", preview=PREVIEW)
    match = factories.make_match(project, checkpoint, base)
    here = f"/projects/{project.pk}/"
    return [
        here,
        *(here + page for page in ("runs/", "runs/new/", "models/", "matches/", "schedules/")),
        f"{here}runs/compare/?a={done.pk}&b={other.pk}",
        *(f"/runs/{run.pk}/" for run in (done, failed, draft)),
        f"/matches/{match.pk}/",
    ]


def test_accessible(open_page, world, trained):
    """With everything opened: in light and dark, and on a narrow screen."""
    page = open_page(world.manager)
    walk = Walk(page)
    for address in trained:
        page.goto(address, wait_until="networkidle")
        page.evaluate("for (const one of document.querySelectorAll('main details')) one.open = true")
        walk.look(address)
    assert not walk.problems


def test_live_curves(open_page, world, trained, watch):
    """The page follows a run without being loaded again, up to its end."""
    run = Run.objects.get(pk=int(trained[-2].split("/")[2]))
    Run.objects.filter(pk=run.pk).update(status="running", step=2, total_steps=10, attempt=1)
    factories.log_metrics(run, steps=2)
    page = open_page(world.manager, run.get_absolute_url())
    expect(page.locator("#run-sentence")).to_contain_text("Step 2 of 10", timeout=PATIENCE)
    loss = page.locator(".chart:has-text('Loss') svg")
    expect(loss).to_have_attribute(
        "aria-label",
        "Loss: training from 1 to 0.5 at step 2; held out from 0.4 to 0.4 at step 2",
        timeout=PATIENCE,
    )
    page.evaluate("window.unbroken = true")
    Metric.objects.create(run=run, step=4, values={"time": 8.0, "loss": 0.25})
    Run.objects.filter(pk=run.pk).update(step=4, log_tail="a line of the log")
    expect(page.locator("#run-sentence")).to_have_text("Step 4 of 10, about 12 s left", timeout=PATIENCE)
    expect(loss).to_have_attribute(
        "aria-label",
        "Loss: training from 1 to 0.25 at step 4; held out from 0.4 to 0.4 at step 2",
        timeout=PATIENCE,
    )
    expect(page.locator("#log")).to_have_text("a line of the log")
    # Another attempt goes on from step 2: what was beyond it is void.
    Metric.objects.filter(run=run, step=4).delete()
    Metric.objects.create(run=run, step=3, values={"time": 1.0, "loss": 0.4})
    Run.objects.filter(pk=run.pk).update(step=3, attempt=2)
    expect(loss).to_have_attribute(
        "aria-label",
        "Loss: training from 1 to 0.4 at step 3; held out from 0.4 to 0.4 at step 2",
        timeout=PATIENCE,
    )
    factories.finish(Run.objects.get(pk=run.pk))
    expect(page.locator("#run-status")).to_have_text("done", timeout=PATIENCE)
    expect(page.locator("a:has-text('Download')")).to_be_visible()
    expect(loss).to_be_visible()
    assert page.evaluate("window.unbroken")


def test_curves_can_be_read_by_keyboard(open_page, world, trained):
    page = open_page(world.manager, trained[-4])
    chart = page.locator(".chart:has-text('Loss')")
    chart.locator("svg").focus()
    reading = chart.locator("output")
    expect(reading).to_have_text("training 0.2 held out 0.4 ", timeout=PATIENCE)
    page.keyboard.press("Home")
    expect(reading).to_contain_text("training 1 ")
    page.keyboard.press("ArrowRight")
    expect(reading).to_contain_text("training 0.5 ")
    expect(reading).to_contain_text("at 2")


def test_without_scripts(open_page, world, trained):
    """Start a run from the form, look at it and discard it, with plain pages."""
    page = open_page(world.manager, trained[2], java_script_enabled=False)
    page.click("text=Look at the data first")
    expect(page.locator("#run-status")).to_have_text("preparing")
    page.click("button:has-text('Cancel')")
    expect(page.locator("#run-status")).to_have_text("cancelled")
    expect(page.locator("button:has-text('Try again')")).to_be_visible()
