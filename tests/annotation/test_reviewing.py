"""Which answers of every kind count as a disagreement, and that each can be decided by one of them."""

from typing import Any

import pytest
from django.utils import timezone

from annotation import services
from annotation.browsing import judged_slots
from annotation.models import Judgement
from tests.annotation import factories
from tests.annotation.conftest import page_client
from tests.annotation.test_queue import answer, take

pytestmark = pytest.mark.django_db
NOW = timezone.now()
WRONG = {"candidate": 0, "type": "span", "start": 0, "end": 3, "category": "wrong"}
MARKS = {
    "type": "marks",
    "kinds": ["span"],
    "categories": [{"name": "wrong"}, {"name": "rude"}],
    "required": True,
}
STEPS = {"type": "marks", "kinds": ["step"], "categories": [{"name": "good"}], "required": True}
RATED = {"type": "ratings", "aspects": [{"name": "clear"}]}
ASPECTS = {"type": "aspects", "aspects": [{"name": "clear"}]}
RUBRIC = {"type": "rubric", "criteria": [{"name": "short", "text": "Is short"}]}
TAGS = {"type": "tags", "options": [{"name": "rude"}, {"name": "long"}], "required": True}
CHAT = [{"role": "assistant", "content": "Well."}]

# For each kind: the question, an answer, one that differs, and one that differs in nothing that counts.
KINDS: dict[str, tuple[dict[str, Any], Any, Any, Any]] = {
    "choice": (
        {"type": "choice"},
        {"choice": 0, "strength": 3},
        {"choice": "tie"},
        {"choice": 0, "strength": 1},
    ),
    "ranking": ({"type": "ranking"}, {"ranking": [[0], [1]]}, {"ranking": [[0, 1]]}, {"ranking": [[0], [1]]}),
    "thumbs": ({"type": "thumbs"}, {"thumbs": [1, 0]}, {"thumbs": [1, 1]}, {"thumbs": [1, 0]}),
    "aspects": (
        ASPECTS,
        {"aspects": {"clear": {"choice": 0, "strength": 1}}},
        {"aspects": {"clear": {"choice": 1, "strength": 1}}},
        {"aspects": {"clear": {"choice": 0, "strength": 3}}},
    ),
    "ratings": (
        RATED,
        {"ratings": [{"clear": 2}, {"clear": 4}]},
        {"ratings": [{"clear": 4}, {"clear": 4}]},
        {"ratings": [{"clear": 3}, {"clear": 3}]},
    ),
    "turns": (
        {"type": "turns"},
        {"turns": [{"turn": 0, "choice": 0}]},
        {"turns": [{"turn": 0, "choice": 1}]},
        {"turns": [{"turn": 0, "choice": 0}]},
    ),
    "rubric": (
        RUBRIC,
        {"rubric": [{"short": True}, {"short": False}]},
        {"rubric": [{"short": True}, {"short": True}]},
        {"rubric": [{"short": True}, {"short": False}]},
    ),
    "tags": (TAGS, {"tags": ["rude", "long"]}, {"tags": ["rude"]}, {"tags": ["long", "rude"]}),
    "marks": (
        MARKS,
        {"marks": [WRONG]},
        {"marks": [WRONG | {"category": "rude"}]},
        {"marks": [WRONG | {"start": 1, "end": 4}]},
    ),
    "no marks": (MARKS, {"marks": []}, {"marks": [WRONG]}, {"marks": []}),
    "first error": (
        STEPS,
        {"marks": [{"candidate": 0, "type": "step", "step": 0, "first_error": True}]},
        {"marks": [{"candidate": 1, "type": "step", "step": 0, "first_error": True}]},
        {"marks": [{"candidate": 0, "type": "step", "step": 0, "first_error": True}]},
    ),
}


def given(project, first: dict[str, Any], second: dict[str, Any], *, text: Any) -> None:
    """One comparison that two people answer."""
    group = {"prompt": "?", "candidates": [{"text": text}, {"text": text}]}
    services.add_comparisons(project=project, groups=[group], needed=2)
    for user, said in zip(factories.add_annotators(project, 2), (first, second), strict=True):
        rest = {key: value for key, value in said.items() if key not in ("choice", "strength")}
        values = {"choice": said.get("choice"), "strength": said.get("strength"), "answers": rest}
        answer(take(project, user), user, **values)


@pytest.fixture
def unshuffled(monkeypatch):
    monkeypatch.setattr("annotation.services.queue._shuffle", lambda order: None)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_a_disagreement_and_how_it_is_decided(manager, manager_page, kind, unshuffled):
    question, one, other, alike = KINDS[kind]
    text = CHAT if kind == "turns" else "1. First.\n2. Second."
    project = factories.make_project(by=manager, questions=[question])
    given(project, one, alike, text=text)
    assert services.reviews_waiting(project) == 0
    given(project, one, other, text=text)
    assert services.reviews_waiting(project) == 1
    here = f"/projects/{project.pk}/review/"
    page = manager_page.get(here)
    item = page.context["item"]
    assert [said["annotator"] for said in item["judgements"]] == [1, 2]
    body = {"lease": item["lease"], "client_id": page.context["client_id"], "said": "2"}
    manager_page.post(here, body)
    decided = Judgement.objects.get(kind="review")
    assert decided.comparison.prompt == "?"
    taken = item["judgements"][1]
    assert services.answer_as_given(decided) == {key: taken[key] for key in taken if key != "annotator"}
    assert services.reviews_waiting(project) == 0


def test_undoing_and_skipping_a_review_without_scripts(project, manager, manager_page, unshuffled):
    given(project, {"choice": 0}, {"choice": 1}, text="x")
    here, judge = (f"/projects/{project.pk}/{path}/" for path in ("review", "judge"))
    page = manager_page.get(here)
    body = {"lease": page.context["item"]["lease"], "client_id": page.context["client_id"], "key": "0"}
    manager_page.post(here, body)
    last = manager_page.get(here).context["last_judgement"]
    assert manager_page.get(judge).context["last_judgement"] is None
    assert manager_page.post(f"{judge}undo/", {"judgement": last}).headers["Location"] == here
    lease = manager_page.get(here).context["item"]["lease"]
    assert manager_page.post(f"{judge}skip/", {"lease": lease}).headers["Location"] == here
    assert services.reviews_waiting(project) == 1  # for somebody else
    assert manager_page.get(here).context["item"] is None


def test_who_withdrew_or_was_paused_reviews_no_more(project, manager):
    given(project, {"choice": 0}, {"choice": 1}, text="x")
    rita = factories.make_user(username="rita")
    services.add_member(project=project, username="rita", role="reviewer", by=manager)
    services.pause_member(project=project, user=rita.pk, reason="", now=NOW)
    page = page_client(rita).get(f"/projects/{project.pk}/review/").content.decode()
    assert "Your work in this project is paused" in page


def test_a_review_in_hand_is_no_slot_in_hand(project, manager, manager_page, unshuffled):
    given(project, {"choice": 0}, {"choice": 1}, text="x")
    manager_page.get(f"/projects/{project.pk}/review/")
    assert "2 of 2 judgements" in manager_page.get("/").content.decode()
    progress = services.progress(project=project, user=manager, now=NOW)
    assert judged_slots(project, progress) == 2
