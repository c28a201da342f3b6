"""Assignment in the browser: the pages for managers and reviewers, and the test that people take."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.utils import timezone

from annotation import services
from annotation.models import Judgement
from tests.annotation import factories
from tests.annotation.test_queue import answer, take
from tests.functional.conftest import judge_page, wait_until_saved

pytestmark = pytest.mark.django_db(transaction=True)
NOW = timezone.now()


@pytest.fixture
def busy(world):
    """One of everything: a group, a known answer, a skip, a dispute, judgements set aside."""
    project, manager = world.texts, world.manager
    services.update_project(project=project, labels_per_comparison=2)
    services.update_assignment(project=project, skip_reasons=["Not my language", "Both empty"])
    people = factories.add_annotators(project, 3)
    lease = take(project, people[2])
    services.skip_lease(lease_id=lease.pk, annotator=people[2], reason="Not my language", now=NOW)
    (disputed,) = services.add_comparisons(
        project=project, groups=factories.text_groups(1, start=90), needed=2
    )
    group = services.save_group(
        project=project, name="Deutsch", attributes={"language": "de"}, reserved_labels=1
    )
    services.update_member(project=project, user=world.annotator.pk, group=group, quota=500, now=NOW)
    services.set_priorities(project=project, priorities={disputed.pk: 9})
    services.update_assignment(project=project, queue_strategy="priority")
    services.remove_group(project=project, group=services.save_group(project=project, name="x"))
    for user, choice in zip(people[:2], (0, 1), strict=True):
        lease = take(project, user)
        answer(lease, user, lease.order.index(choice), strength=2)
    known = project.comparisons.first()
    services.set_gold_answer(project=project, comparison_id=known.pk, by=manager, choice=0)
    answer(take(project, people[2]), people[2])
    services.set_aside(project=project, user=people[2].pk, by=manager, reason="in a hurry", now=NOW)
    return world


def addresses(world):
    here = f"/projects/{world.texts.pk}/"
    known = world.texts.comparisons.first()
    person = Judgement.objects.exclude(set_aside=None).get().annotator_id
    group = world.texts.annotator_groups.first()
    return [
        *(here + path for path in ("assignment/", "groups/", "gold/", "skipped/", "review/", "consent/")),
        f"{here}groups/{group.pk}/",
        f"{here}members/{person}/",
        f"{here}data/{known.pk}/gold/",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(open_page, busy, scheme):
    page = open_page(busy.manager, color_scheme=scheme)
    for address in addresses(busy):
        page.goto(address)
        found = Axe().run(page).response["violations"]
        assert found == [], (address, [(item["id"], item["nodes"][0]["html"]) for item in found])


def test_no_page_is_wider_than_a_phone(open_page, busy):
    page = open_page(busy.manager, viewport={"width": 360, "height": 740})
    for address in addresses(busy):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, address


def test_the_test_before_the_work(open_page, world):
    """Consent, a wrong answer with its explanation, a right one, and then the work."""
    project, manager = world.texts, world.manager
    for comparison in factories.add_texts(project, 2, needed=0):
        services.set_gold_answer(
            project=project,
            comparison_id=comparison.pk,
            by=manager,
            choice="tie",
            purpose="qualification",
            explanation="They say **the same**.",
        )
    services.update_assignment(project=project, pass_mark=0.5)
    services.publish_consent_text(project=project, text="We keep what you say.", by=manager)
    page = open_page(world.annotator, f"/projects/{project.pk}/judge/")
    page.wait_for_url("**/consent/")
    page.get_by_role("button", name="I agree").press("Enter")
    page.wait_for_url("**/judge/")
    page = judge_page(page, project)
    page.keyboard.press("1")
    page.wait_for_selector("#feedback:has-text('Not what was expected')")
    assert page.inner_html("#feedback .prose").strip() == "<p>They say <strong>the same</strong>.</p>"
    page.keyboard.press("0")
    page.wait_for_selector("#feedback:has-text('You have passed the test')")
    wait_until_saved(page)
    page.wait_for_selector("#work:not([hidden])")
    page.keyboard.press("1")
    page.wait_for_selector("#feedback", state="hidden")
    wait_until_saved(page)
    kinds = list(Judgement.objects.order_by("pk").values_list("kind", flat=True))
    assert kinds == ["qualification", "qualification", "regular"]
