"""The interface in other languages, in the browser: nothing sticks out on a phone, nothing complains."""

import pytest

from tests.functional.accessibility import TOO_WIDE
from tests.functional.conftest import judge_page

pytestmark = pytest.mark.django_db(transaction=True)
PHONE = {"viewport": {"width": 360, "height": 740}}


@pytest.mark.parametrize("language", ["de", "ar"])  # long words; from right to left
def test_phone(open_page, world, language):
    page = open_page(world.manager, **PHONE)
    page.click(f"footer button[value={language}]")
    page.wait_for_selector(f"html[lang={language}]")
    project = f"/projects/{world.texts.pk}/"
    found = {}
    for address in (project, "/projects/new/", *(f"{project}{name}/" for name in ("members", "assignment"))):
        page.goto(address)
        found[address] = page.evaluate(TOO_WIDE, 360)
    judge_page(page, world.texts)
    found["judge"] = page.evaluate(TOO_WIDE, 360)
    tops = page.evaluate("[...document.querySelectorAll('#keys .key:not(.bad)')].map(key => key.offsetTop)")
    assert len(tops) == 7
    assert len(set(tops)) == 1, "the seven keys stand in one row"
    assert {name: wide for name, wide in found.items() if wide} == {}
