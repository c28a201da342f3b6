"""A picture in the prompt on the judging page: shown beside the words, and gone with a key."""

import pytest

from annotation import services
from annotation.services.media import store_image
from tests.annotation import factories
from tests.functional.accessibility import Walk
from tests.functional.conftest import judge_page, wait_until_saved
from tests.functional.pictures import disc

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_picture_in_the_prompt(world, open_page):
    project = factories.make_project(by=world.manager, name="Seeing")
    services.add_member(project=project, username="anna", role="annotator", by=world.manager)
    groups = []
    for radius in (20, 100, 28):
        picture = store_image(disc(radius, "#d7263d", 40 * radius)).sha256
        words = {"type": "text", "text": f"How large is this disc of {radius}?"}
        asked = [{"role": "user", "content": [{"type": "image", "image": picture}, words]}]
        groups.append({"prompt": asked, "candidates": [{"text": "Large."}, {"text": "Small."}]})
    services.add_comparisons(project=project, groups=groups)
    page = judge_page(open_page(world.annotator), project)
    shown = page.locator("#prompt img.of-prompt")
    assert shown.evaluate("image => [image.complete, image.naturalWidth]") == [True, 800]
    box, pane = shown.bounding_box(), page.locator("#prompt").bounding_box()
    assert box["width"] <= pane["width"]
    assert box["height"] < 320  # the answers stay in view
    assert page.locator(".candidate").first.bounding_box()["y"] < 500
    first = shown.get_attribute("src")
    page.keyboard.press("1")
    wait_until_saved(page)
    page.wait_for_function(
        "src => document.querySelector('#prompt img').getAttribute('src') !== src", arg=first
    )
    page.wait_for_function("document.querySelector('#prompt img').naturalWidth === 4000")
    assert page.locator("#prompt").inner_text().endswith("100?")
    manager = open_page(world.manager)
    walk = Walk(manager)
    comparison = project.comparisons.order_by("rank").first()
    walk.look("comparison", f"/projects/{project.pk}/data/{comparison.pk}/")
    assert manager.locator("img.of-prompt").evaluate("image => image.naturalWidth") == 800
    for address in ("gold/", "jobs/score/new/", "imports/"):
        walk.look(address, f"/projects/{project.pk}/{address}")
    assert not walk.problems
