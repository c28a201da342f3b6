"""What axe finds on a page, and whether it fits on a narrow screen."""

from pathlib import Path
from typing import Any

import axe_playwright_python
from playwright.sync_api import Page

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
NARROW = 320  # pixels: WCAG 1.4.10, also a wide page enlarged four times
WIDE = {"width": 1280, "height": 800}
RUN = """options => axe.run(document, options).then(results => results.violations.flatMap(
    rule => rule.nodes.map(node => `${rule.id}: ${node.html.slice(0, 200)} ${node.failureSummary}`)))"""
# Target size (WCAG 2.5.8) is off in axe unless it is asked for.
WHOLE = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
CONTRAST = {"resultTypes": ["violations"], "runOnly": ["color-contrast"]}
# What sticks out of the page and is not inside something that scrolls.
TOO_WIDE = """narrow => document.documentElement.scrollWidth <= narrow ? []
    : [...document.querySelectorAll("body *")].filter(one => one.getBoundingClientRect().right > narrow + 1)
    .slice(0, 3).map(element => `wider than ${narrow}: ${element.outerHTML.slice(0, 160)}`)"""


def violations(page: Page, options: dict[str, Any] = WHOLE) -> list[str]:
    """What axe finds, a line for each element."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(AXE)
    return list(page.evaluate(RUN, options))


class Walk:
    """Looks at pages one after another and keeps what is wrong with them: `problems`, with their names."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.seen: list[str] = []
        self.problems: list[str] = []

    def look(self, name: str, address: str | None = None) -> None:
        """Whole in light, contrast in dark, and the width on a narrow screen; of where the page is now, if
        there is no address."""
        page = self.page
        if address is not None:
            page.goto(address)
        found = violations(page)
        page.emulate_media(color_scheme="dark")
        found += [f"dark {one}" for one in violations(page, CONTRAST)]
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": NARROW, "height": 700})
        found += page.evaluate(TOO_WIDE, NARROW)
        page.set_viewport_size(WIDE)
        self.seen.append(name)
        self.problems += [f"{name}: {one}" for one in found]
