"""What models suggest: stored, shown or hidden as the project says, and kept with the judgement."""

import uuid

import pytest
from django.utils import timezone

from annotation import services
from annotation.errors import Invalid
from annotation.models import Judgement
from tests.annotation import factories

pytestmark = pytest.mark.django_db


def suggest(project, comparison, answer, model="judge-1"):
    rows = [{"comparison": comparison.pk, "answer": answer}]
    return services.add_suggestions(project=project, model=model, suggestions=rows, now=timezone.now())


def take(project, user):
    return services.next_lease(project=project, user=user, now=timezone.now())


def test_hidden_unless_the_project_shows_them(project, annotator):
    (comparison,) = factories.add_texts(project, 1)
    suggest(project, comparison, {"choice": 1, "strength": 3})
    assert "suggestions" not in services.present(take(project, annotator))
    services.update_project(project=project, show_suggestions=True)
    lease = take(project, annotator)
    shown = services.present(services.lease_of(lease_id=lease.pk, annotator=annotator), html=True)
    expected = {"choice": lease.order.index(1), "strength": 3}
    assert shown["suggestions"] == [{"by": "judge-1", "answer": expected}]
    assert "judge-1" in shown["form_html"]
    judgement, _ = services.submit_judgement(
        lease_id=lease.pk, annotator=annotator, client_id=uuid.uuid4(), choice=0, now=timezone.now()
    )
    assert judgement.suggestions == [{"by": "judge-1", "answer": {"choice": 1, "strength": 3}}]


def test_nothing_changes_under_somebodys_eyes(project, annotator):
    services.update_project(project=project, show_suggestions=True)
    (comparison,) = factories.add_texts(project, 1)
    lease = take(project, annotator)
    suggest(project, comparison, {"choice": 0})
    assert "suggestions" not in services.present(lease)
    judgement, _ = services.submit_judgement(
        lease_id=lease.pk, annotator=annotator, client_id=uuid.uuid4(), choice=0, now=timezone.now()
    )
    assert judgement.suggestions is None


def test_a_later_suggestion_replaces_and_slots_stay_open(project):
    (comparison,) = factories.add_texts(project, 1)
    suggest(project, comparison, {"choice": 0})
    suggest(project, comparison, {"choice": "tie"})
    assert suggest(project, comparison, {"choice": 1}, model="judge-2") == 1
    standing = Judgement.objects.standing().order_by("pk").values_list("choice", flat=True)
    assert list(standing) == ["tie", 1]
    comparison.refresh_from_db()
    assert comparison.open_slots == 1


def test_suggestions_that_do_not_fit(project):
    (comparison,) = factories.add_texts(project, 1)
    other = factories.add_texts(factories.make_project(), 1)[0]
    with pytest.raises(Invalid) as refusal:
        suggest(project, comparison, {"choice": 5})
    assert list(refusal.value.errors) == ["suggestions.0.answer.choice"]
    with pytest.raises(Invalid, match="no comparison"):
        suggest(project, other, {"choice": 0})


def test_api(as_manager, as_annotator, project):
    (comparison,) = factories.add_texts(project, 1)
    address = f"/api/v1/projects/{project.pk}/suggestions/"
    body = {"model": "judge-1", "suggestions": [{"comparison": comparison.pk, "answer": {"choice": 0}}]}
    assert as_manager.post(address, body).json() == {"stored": 1}
    assert as_manager.post(address, {**body, "model": ""}).status_code == 400
    assert as_annotator.post(address, body).status_code == 403
