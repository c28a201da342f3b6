"""A real Chromium against a live server. Every page is watched: its errors, and what was sent to it."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from django.conf import settings
from playwright.sync_api import Error, sync_playwright

from annotation import services
from annotation.models import Project, User
from tests.annotation import factories
from tests.annotation.conftest import page_client
from tests.functional.pictures import picture_groups

PASSWORD = "correct horse battery"
SECRET = "secret-model"  # the beginning of every candidate's source
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)

# Playwright's synchronous interface keeps an event loop in this thread, which Django takes for async code.
os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "true")


def pytest_collection_modifyitems(items):
    """A browser on a busy machine may be late; what fails twice is broken. The summary names every repeat."""
    for item in items:
        if "tests/functional/" in item.nodeid:
            item.add_marker(pytest.mark.flaky(reruns=1))


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def browser():
    path = _chromium()
    if path is None:
        pytest.skip("no Chromium here: install it, or name it in the environment variable CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Watch:
    """What a page complained about and what it was sent."""

    complaints: list[str] = field(default_factory=list)
    bodies: list[tuple[str, bytes]] = field(default_factory=list)
    expected: tuple[str, ...] = ()  # parts of complaints that the test provokes
    on_their_way: set = field(default_factory=set)

    def unexpected(self) -> list[str]:
        return [text for text in self.complaints if not any(part in text for part in self.expected)]

    def follow(self, page) -> None:
        page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("response", self._keep)
        page.on("request", lambda request: self.on_their_way.add(request))
        for outcome in ("requestfinished", "requestfailed"):
            page.on(outcome, lambda request: self.on_their_way.discard(request))

    def _keep(self, response) -> None:
        if response.ok and response.status != 204:
            try:
                self.bodies.append((response.url, response.body()))
            except Error as error:  # a page that was left takes its bodies with it
                if "No resource" not in str(error) and "closed" not in str(error):
                    raise


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    yield watch
    assert watch.unexpected() == []


@pytest.fixture
def open_page(browser, live_server, watch) -> Iterator[Callable]:
    """`open_page(user, "/address/", **context)`: a page in a context of its own, signed in by cookie."""
    contexts = []

    def open_page(user: User | None, address: str = "/", **options):
        options = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"} | options
        context = browser.new_context(base_url=live_server.url, **options)
        context.set_default_timeout(60_000)  # the machine may be busy
        contexts.append(context)
        if user is not None:
            value = page_client(user).cookies[settings.SESSION_COOKIE_NAME].value
            context.add_cookies(
                [{"name": settings.SESSION_COOKIE_NAME, "value": value, "url": live_server.url}]
            )
        page = context.new_page()
        watch.follow(page)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        let_requests_end(context.pages[0], watch)
        context.close()


def let_requests_end(page, watch: Watch) -> None:
    """A page that is left takes what it was sent with it, and a request that the server still works on
    would meet the emptying of the tables after the test.
    """
    deadline = time.monotonic() + 10
    while watch.on_their_way and time.monotonic() < deadline:
        page.wait_for_timeout(20)


@dataclass
class World:
    manager: User
    annotator: User
    texts: Project
    pictures: Project


@pytest.fixture
def world(transactional_db) -> World:
    """Two projects with a manager and an annotator in both."""
    manager = services.create_user(username="mona", role="manager", password=PASSWORD)
    annotator = services.create_user(username="anna", role="annotator", password=PASSWORD)
    texts = factories.make_project(by=manager, name="Answers", guidelines="Choose what **helps** more.")
    pictures = factories.make_project(by=manager, name="Shapes", modality="image")
    for project in (texts, pictures):
        services.add_member(project=project, username="anna", role="annotator", by=manager)
    factories.add_texts(texts, 8)
    services.add_comparisons(project=pictures, groups=picture_groups(8))
    return World(manager, annotator, texts, pictures)


def judge_page(page, project: Project):
    """The judging page of a project, once its script is ready and holds the comparison behind the first."""
    with page.expect_response(lambda response: "/next/" in response.url):
        page.goto(f"/projects/{project.pk}/judge/")
        page.wait_for_selector("main[data-ready]")
    page.wait_for_timeout(100)  # for the script to take the reply
    return page


def wait_until_saved(page) -> None:
    page.wait_for_selector("#saved.saved:has-text('saved ✓')")
