"""Every page of the site: accessible (WCAG 2.2 AA, by axe) in light and dark, and readable at 320 pixels.

The addresses come from the URL configuration, their rows from the table of `tests.webapp.test_permissions`: a
new page is walked by itself, or fails there until it has its line.
"""

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from django.core.cache import cache
from django.urls import get_resolver, reverse
from django.utils import timezone

from annotation import services
from annotation.models import ExportJob, ImportJob, Project, Webhook
from tests.annotation import factories
from tests.annotation.test_second_factor import code_for
from tests.functional.accessibility import Walk
from tests.webapp.access_world import PASSWORD, World, make_world
from tests.webapp.test_permissions import API, PAGES, THEIRS, address_of, patterns

pytestmark = pytest.mark.django_db(transaction=True)
LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft " * 4
# Told apart by who looks at them; the others are the owner's.
ALSO_SEEN_BY = {"annotation:project": ["annotator"], "annotation:home": ["annotator"]}
STRANGERS = {"annotation:sign_in", "annotation:link", "annotation:invitation"}


@pytest.fixture
def full(transactional_db, settings, tmp_path) -> World:
    """A project with one of everything, under a name and with texts that strain the layout."""
    storage = {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": tmp_path}}
    settings.STORAGES = {**settings.STORAGES, "default": storage}
    cache.clear()
    world = make_world(tmp_path)
    _fill(world)
    return world


def _fill(world: World) -> None:
    """What the world of the permissions does not need and the pages show."""
    project, owner, now = world.project, world.users["owner"], timezone.now()
    services.update_project(
        project=project, name=LONG[:199], guidelines="# One\n\n- two\n\n| a | b |\n|-|-|\n|1|2|"
    )
    candidates = [{"text": LONG, "source": LONG[:60]}, {"text": "بخير، شكرا", "source": "b"}]
    services.add_comparisons(
        project=project, groups=[{"prompt": LONG.replace(" ", ""), "candidates": candidates}], needed=2
    )
    for row in ("reason one", "reason two"):
        job = ImportJob.objects.get(pk=world.rows["import"])
        job.rejected_rows.create(line=1, field="candidates.0.text", reason=row)
    failed = {"format": "trl", "created_by": owner, "status": "failed", "error": LONG}
    ExportJob.objects.create(project=project, **failed)
    services.update_assignment(project=project, skip_reasons=["Not my language"])
    services.publish_consent_text(project=project, text="We keep what you **say**.", by=owner)
    for who in ("owner", "manager", "reviewer", "annotator"):
        services.give_consent(project=project, user=world.users[who], version=1, now=now)
    reviewer = world.users["reviewer"]
    services.pause_member(project=project, user=reviewer.pk, reason="holidays", now=now)
    skipper = factories.add_annotators(project, 1)[0]
    services.give_consent(project=project, user=skipper, version=1, now=now)
    lease = services.next_lease(project=project, user=skipper, now=now)
    services.skip_lease(lease_id=lease.pk, annotator=skipper, reason="Not my language", now=now)
    hook = Webhook.objects.get(pk=world.rows["webhook"])
    services.send_to([hook], event="test", data={})


def page_names() -> list[str]:
    """Every address that is no part of the API, whether it has a line or not."""
    return [name for name, _ in patterns(get_resolver()) if name not in API]


def shows_a_page(world: World, address: str, who: str) -> bool:
    """Neither a file, nor JSON, nor a part of a page, nor a step on the way to another page."""
    response = world.pages[who].get(address)
    if response.status_code == 302 or not response.headers.get("Content-Type", "").startswith("text/html"):
        return False
    return response.content.lstrip().startswith(b"<!doctype html>")


def test_every_page(open_page, full, watch):
    watch.expected = ("403", "404")
    pages = {"owner": open_page(full.users["owner"]), "annotator": open_page(full.users["annotator"])}
    pages["nobody"] = open_page(None, "/sign-in/")
    walks = {who: Walk(page) for who, page in pages.items()}
    for name in page_names():
        if name in THEIRS or "GET" not in PAGES[name].who:
            continue
        first = "nobody" if name in STRANGERS else "owner"
        for who in [first, *ALSO_SEEN_BY.get(name, [])]:
            address = address_of(full, name, who)
            if shows_a_page(full, address, who):
                walks[who].look(f"{name} as {who}", address)
    walks["owner"].look("nowhere", "/nowhere/")
    walks["annotator"].look("not allowed", f"/projects/{full.project.pk}/settings/")
    assert not [problem for walk in walks.values() for problem in walk.problems]
    assert sum(len(walk.seen) for walk in walks.values()) > 45


def test_pages_of_the_account(open_page, full, watch):
    """Two-factor sign-in needs a person who has just signed in, once without and once with it."""
    watch.expected = ("401", "403", "404", "400")
    page = open_page(None, "/sign-in/")
    walk = Walk(page)
    page.fill("[name=username]", "owner")
    page.fill("[name=password]", PASSWORD)
    page.click("main button.primary")
    page.wait_for_selector("h1:has-text('Projects')")
    for address in ("", "totp/activate/"):
        walk.look(f"two-factor {address}", f"/account/two-factor/{address}")
    secret = generate_totp_secret()
    TOTP.activate(full.users["owner"], secret)
    RecoveryCodes.activate(full.users["owner"])
    for address in ("", "totp/deactivate/", "recovery-codes/", "recovery-codes/generate/"):
        walk.look(f"two-factor, set up {address}", f"/account/two-factor/{address}")
    page.context.clear_cookies()
    page.goto("/sign-in/")
    page.fill("[name=username]", "owner")
    page.fill("[name=password]", PASSWORD)
    page.click("main button.primary")
    page.wait_for_url("**/authenticate/**")
    walk.look("code", page.url)
    page.fill("[name=code]", code_for(secret))
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Projects')")
    for name in sorted(THEIRS - {"openid_connect_login", "openid_connect_callback"}):
        if "download" not in name:
            walk.look(name, reverse(name))
    assert Authenticator.objects.filter(user=full.users["owner"]).count() == 2
    assert not walk.problems


def test_states_of_pages(open_page, full, watch):
    """What is seen only after something was pressed, or when there is nothing yet."""
    watch.expected = ("400", "403")
    owner, project = full.users["owner"], full.project
    empty: Project = factories.make_project(by=owner, name="Empty")
    page = open_page(owner)
    walk = Walk(page)
    here, there = f"/projects/{empty.pk}/", f"/projects/{project.pk}/"
    paths = (
        "",
        "data/",
        "data/judgements/",
        "quality/",
        "leaderboard/",
        "judge/",
        "review/",
        "runs/",
        "models/",
    )
    for path in (*paths, "matches/", "schedules/", "imports/", "exports/", "gold/", "groups/", "skipped/"):
        walk.look(f"empty {path}", here + path)
    page.goto(f"{there}members/")
    with page.expect_navigation():
        page.click("button:has-text('Make a link')")
    walk.look("invitation made")
    page.goto("/tokens/")
    page.fill("[name=name]", "script")
    page.click("main button.primary")
    page.wait_for_selector(".secret")
    walk.look("token made")
    page.goto("/projects/new/")
    with page.expect_navigation():
        page.click("main button.primary:has-text('Create')")
    walk.look("refused form")
    page.goto(f"{there}withdraw/")
    page.check("input[value=keep]")
    page.click("main button.danger")
    page.wait_for_selector("button:has-text('Take part again')")
    walk.look("withdrawn")
    assert not walk.problems


def test_light_and_dark_by_choice(open_page, world):
    """Somebody's choice goes before the device's, on every page, until they take it back."""
    page = open_page(world.manager, "/", color_scheme="light")
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.click(".theme button[value=dark]")
    page.wait_for_selector("html[data-theme=dark]")
    dark = page.evaluate(ground)
    assert dark != light
    page.goto(f"/projects/{world.texts.pk}/judge/")
    assert page.evaluate(ground) == dark
    page.keyboard.press("?")
    page.click("#help .theme button[value=light]")
    page.wait_for_selector("html[data-theme=light]")
    assert page.url.endswith("/judge/")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) == light
    page.keyboard.press("?")
    page.click("#help .theme button[value='']")
    page.wait_for_selector("html:not([data-theme])")
    assert page.evaluate(ground) == dark
