"""Assignment in the browser: the test that people take before the work."""

import pytest

from annotation import services
from annotation.models import Judgement
from tests.annotation import factories
from tests.functional.conftest import judge_page, wait_until_saved

pytestmark = pytest.mark.django_db(transaction=True)


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
