"""Every kind of answer over the API: submitted as shown, stored canonical, given back as shown."""

import json
import uuid

import pytest

from annotation import services
from annotation.models import Judgement
from tests.annotation import factories
from tests.annotation.conftest import api_client
from tests.annotation.files import jsonl, run
from tests.annotation.test_exports import export, rows_of

pytestmark = pytest.mark.django_db

EVERYTHING = [
    {"type": "choice", "worst": True},
    {"type": "aspects", "aspects": [{"name": "help"}, {"name": "tone"}]},
    {"type": "ratings", "aspects": [{"name": "overall", "min": 0, "max": 4}]},
    {"type": "thumbs"},
    {"type": "rubric", "criteria": [{"name": "cites", "text": "Cites a source"}]},
    {"type": "tags", "options": [{"name": "rude"}]},
    {"type": "critique"},
    {"type": "correction"},
    {"type": "marks", "kinds": ["span", "step"], "categories": [{"name": "wrong"}]},
    {"type": "turns"},
    {"type": "context", "text": "Prefer short answers."},
]
ANSWER = {
    "choice": 2,
    "strength": 1,
    "ranking": [[2], [0], [1]],
    "aspects": {"help": {"choice": 0, "strength": 3}, "tone": {"choice": "tie"}},
    "ratings": [{"overall": 0}, {"overall": 2}, {"overall": 4}],
    "thumbs": [0, 1, 1],
    "rubric": [{"cites": True}, {"cites": False}, {"cites": False}],
    "tags": ["rude"],
    "critique": "The first is rude.",
    "corrections": ["Answer 9.", None, None],
    "marks": [{"candidate": 0, "type": "span", "start": 0, "end": 6, "category": "wrong"}],
    "turns": [{"turn": 0, "choice": 1}],
}


def start(questions, groups, *, modality="text"):
    """A project with a template and comparisons, and a client of one annotator in it."""
    project = factories.make_project(questions=questions, modality=modality)
    (user,) = factories.add_annotators(project, 1)
    services.add_comparisons(project=project, groups=groups)
    return project, api_client(user)


def take(client, project):
    return client.post(f"/api/v1/projects/{project.pk}/next/").json()


def send(client, lease, query="", **answer):
    body = json.dumps({"client_id": str(uuid.uuid4())} | answer)
    return client.post(f"/api/v1/leases/{lease}/judgement/{query}", body, content_type="application/json")


def errors(response):
    return {error["field"] for error in response.json()["errors"]}


@pytest.fixture
def everything():
    group = factories.text_groups(1, k=3)[0] | {"meta": {"context": "The reader is a child."}}
    return start(EVERYTHING, [group])


def test_all_kinds_are_stored_canonical_and_come_back_as_shown(everything):
    project, client = everything
    shown = take(client, project)
    assert shown["context"] == "Prefer short answers.\n\nThe reader is a child."
    assert shown["questions"] == project.questions
    assert [candidate["steps"] for candidate in shown["candidates"]] == [[[0, 10]]] * 3

    reply = send(client, shown["lease"], **ANSWER)
    assert reply.status_code == 201, reply.json()
    assert {key: reply.json()[key] for key in ANSWER} == ANSWER
    stored = Judgement.objects.get()
    places = {position: stored.order[position] for position in range(3)}
    assert (stored.choice, stored.strength) == (places[2], 1)
    assert stored.answers["ranking"] == [[places[2]], [places[0]], [places[1]]]
    assert stored.answers["aspects"]["help"] == {"choice": places[0], "strength": 3}
    assert stored.answers["ratings"][places[1]] == {"overall": 2}
    assert stored.answers["thumbs"][places[0]] == 0
    assert stored.answers["rubric"][places[0]] == {"cites": True}
    assert stored.answers["corrections"][places[0]] == "Answer 9."
    assert stored.answers["turns"] == [{"turn": 0, "choice": places[1]}]
    assert stored.answers["context"] == shown["context"]
    spans = [mark for mark in stored.answers["marks"] if mark["type"] == "span"]
    assert [mark["candidate"] for mark in spans] == [places[0]]
    assert stored.differences[places[0]] == [
        ["equal", 0, 7, 0, 7],
        ["replace", 7, 8, 7, 8],
        ["equal", 8, 9, 8, 9],
        ["delete", 9, 10, 9, 9],
    ]
    assert [stored.differences[places[position]] for position in (1, 2)] == [None, None]

    back = client.post(f"/api/v1/judgements/{stored.pk}/undo/").json()
    assert back["previous_answer"] == ANSWER
    assert take(client, project) == back, "a reload prefills too"
    again = send(client, back["lease"], **ANSWER | {"critique": "Still rude."})
    assert again.status_code == 201
    history = client.get(f"/api/v1/projects/{project.pk}/history/").json()
    assert [item["answer"]["critique"] for item in history] == ["Still rude.", "The first is rude."]
    assert [item["undone_at"] is None for item in history] == [True, False]
    assert history[1]["answer"] == ANSWER
    assert history[0]["questions"] == project.questions


def test_mistakes_are_named_with_their_path(everything):
    project, client = everything
    shown = take(client, project)
    bad = ANSWER | {
        "ratings": [{"overall": 0}, {"overall": 5}, {}],
        "marks": [{"candidate": 0, "type": "span", "start": 5, "end": 99, "category": "wrong"}],
        "mood": "good",
    }
    response = send(client, shown["lease"], **bad)
    assert response.status_code == 400
    assert errors(response) == {"ratings.1.overall", "ratings.2.overall", "marks.0", "mood"}
    assert errors(send(client, shown["lease"])) == {
        "choice",
        "aspects",
        "ratings",
        "thumbs",
        "rubric",
        "turns",
    }
    assert not Judgement.objects.exists()


def test_a_template_without_choice_and_a_single_candidate():
    questions = [{"type": "ratings", "aspects": [{"name": "overall"}], "required": False}, {"type": "thumbs"}]
    project, client = start(questions, factories.text_groups(2, k=1))
    first = take(client, project)
    assert errors(send(client, first["lease"], choice=0, thumbs=[1])) == {"choice"}
    reply = send(client, first["lease"], "?next=1", thumbs=[1], ratings=[{"overall": 5}]).json()
    assert (reply["choice"], reply["strength"], reply["thumbs"]) == (None, None, [1])
    assert send(client, reply["next"]["lease"], thumbs=[0], ratings=[None]).status_code == 201
    rows = Judgement.objects.order_by("pk").values_list("choice", "answers")
    assert list(rows) == [(None, {"thumbs": [1], "ratings": [{"overall": 5}]}), (None, {"thumbs": [0]})]
    groups = list(
        services.judged_groups(project=project, before=factories.NOW.replace(year=9999), filters={})
    )
    assert [group["judgements"][0]["thumbs"] for group in groups] == [[1], [0]]
    assert "choice" not in groups[0]["judgements"][0]


def test_completions_without_label_are_judged_one_by_one(manager):
    project = factories.make_project(by=manager, questions=[{"type": "thumbs"}])
    job = run(project, jsonl({"prompt": "p", "completion": "an answer", "topic": "x"}), "trl")
    assert (job.accepted, job.rejected) == (1, 0)
    (user,) = factories.add_annotators(project, 1)
    client = api_client(user)
    shown = take(client, project)
    assert [candidate["text"] for candidate in shown["candidates"]] == ["an answer"]
    assert send(client, shown["lease"], thumbs=[1]).status_code == 201
    assert rows_of(export(project, "trl")[1]) == [
        {"prompt": "p", "completion": "an answer", "label": True, "topic": "x"}
    ]


def test_single_candidates_wait_for_nobody_where_only_choices_are_asked():
    project, client = start([{"type": "choice"}], factories.text_groups(2, k=1))
    assert client.post(f"/api/v1/projects/{project.pk}/next/").status_code == 204


def test_history_is_ones_own_and_twenty_long(project, as_annotator, as_manager, as_outsider):
    factories.add_texts(project, 22)
    lease = take(as_annotator, project)
    for _ in range(22):
        lease = send(as_annotator, lease["lease"], "?next=1", choice=0).json()["next"]
    url = f"/api/v1/projects/{project.pk}/history/"
    history = as_annotator.get(url).json()
    assert [item["prompt"] for item in history] == [f"Question {i}?" for i in range(21, 1, -1)]
    assert set(history[0]) == {
        "judgement", "lease", "comparison", "prompt", "answer", "questions", "seconds", "created_at",
        "undone_at",
    }  # fmt: skip
    assert as_manager.get(url).json() == []
    assert as_outsider.get(url).status_code == 404


def test_the_template_changes_over_the_api(as_manager, as_annotator, project):
    url = f"/api/v1/projects/{project.pk}/"
    same = as_manager.patch(url, {"questions": project.questions, "guidelines": "Be kind."}, format="json")
    assert (same.status_code, same.json()["template_version"], same.json()["guidelines"]) == (
        200,
        1,
        "Be kind.",
    )
    changed = as_manager.patch(url, {"questions": [{"type": "thumbs"}]}, format="json").json()
    assert (changed["template_version"], changed["questions"][0]["type"]) == (2, "thumbs")
    again = as_manager.patch(url, {"questions": changed["questions"]}, format="json").json()
    assert again["template_version"] == 2
    bad = as_manager.patch(url, {"questions": [{"type": "thumbs", "mood": 1}]}, format="json")
    assert (bad.status_code, errors(bad)) == (400, {"questions.0.mood"})
    assert as_manager.patch(url, {"modality": "image"}, format="json").status_code == 400
    versions = as_annotator.get(f"{url}template-versions/").json()
    assert [(one["version"], one["questions"][0]["type"]) for one in versions] == [
        (1, "choice"),
        (2, "thumbs"),
    ]
    assert as_annotator.patch(url, {"name": "Mine"}, format="json").status_code == 403


def test_boxes_and_points_on_pictures():
    from annotation.services.media import store_image
    from tests.annotation.files import png

    pictures = [{"image": store_image(png(colour=colour))} for colour in ("red", "blue")]
    questions = [{"type": "marks", "kinds": ["box", "point"], "severities": [{"name": "bad"}]}]
    project, client = start(questions, [{"prompt": "p", "candidates": pictures}], modality="image")
    shown = take(client, project)
    assert "steps" not in shown["candidates"][0]
    marks = [
        {"candidate": 0, "type": "box", "box": [0, 0.25, 0.5, 0.75], "severity": "bad"},
        {"candidate": 1, "type": "point", "point": [0.5, 1.0], "severity": "bad"},
    ]
    assert send(client, shown["lease"], marks=marks).status_code == 201
    stored = Judgement.objects.get()
    at = {mark["candidate"]: mark for mark in stored.answers["marks"]}
    assert at[stored.order[0]]["box"] == [0, 0.25, 0.5, 0.75]
    assert at[stored.order[1]]["point"] == [0.5, 1.0]


@pytest.mark.parametrize(
    "body", [{"choice": "a\x00"}, {"choice": {}}, {"marks": "x"}, {"critique": "\ud800"}, {"\ud800": 1}]
)
def test_nonsense_is_refused(everything, body):
    project, client = everything
    assert send(client, take(client, project)["lease"], **ANSWER | body).status_code == 400
