"""Gold and test questions from a file: what the file says is the right answer, for each kind of question."""

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from annotation import services
from annotation.errors import Invalid
from annotation.models import Comparison, GoldAnswer, ImportJob, Judgement
from annotation.services.gold import is_right
from tests.annotation import factories
from tests.annotation.files import image_row, jsonl, png, rejected, run, start, zipped

pytestmark = pytest.mark.django_db

TALK = "\n\nHuman: p\n\nAssistant: "
STEPS = "1. Add.\n2. Divide."
EVERYTHING = [
    {"type": "choice", "text": "Which?"},
    {"type": "aspects", "text": "By aspect?", "aspects": [{"name": "style"}]},
    {"type": "ratings", "text": "How good?", "aspects": [{"name": "tone"}]},
    {"type": "thumbs", "text": "Fine?"},
    {"type": "rubric", "text": "Met?", "criteria": [{"name": "polite", "text": "Is polite"}]},
    {"type": "tags", "text": "Why?", "options": [{"name": "short"}, {"name": "kind"}]},
    {"type": "marks", "text": "Where?", "kinds": ["span", "step"], "categories": [{"name": "wrong"}]},
]
ANSWERS = {
    "choice": 1,
    "aspects": {"style": {"choice": 0}},
    "ratings": [{"tone": 2}, {"tone": 5}],
    "thumbs": [0, 1],
    "rubric": [{"polite": False}, {"polite": True}],
    "tags": ["short"],
    "marks": [
        {"candidate": 0, "type": "span", "start": 3, "end": 6, "category": "wrong"},
        {"candidate": 0, "type": "step", "step": 0, "first_error": True, "category": "wrong"},
    ],
}


def question(prompt="p", answers=("good", "bad"), **said):
    return {
        "prompt": prompt,
        "candidates": [{"text": text} for text in answers],
        "judgements": [{"annotator": "expert", **said}],
    }


def test_every_kind_of_answer(project):
    """Each key is in the stored answer, and only an annotator who meets all of them is right."""
    services.update_project(project=project, questions=EVERYTHING)
    row = question(answers=(STEPS, "fine"), **ANSWERS, strength=3, critique="The second adds.")
    job = run(project, jsonl(row), "groups", use="gold")
    assert (job.accepted, rejected(job)) == (1, [])
    gold = GoldAnswer.objects.get()
    assert (gold.purpose, gold.choice, gold.explanation) == ("gold", 1, "The second adds.")
    assert gold.answers.keys() == ANSWERS.keys() - {"choice"}
    assert gold.created_by == project.created_by
    assert not Judgement.objects.exists()
    assert is_right(gold, choice=1, answers=gold.answers)
    for key, wrong in {"thumbs": [1, 1], "ratings": [{"tone": 2}, {"tone": 4}], "tags": ["kind"]}.items():
        assert not is_right(gold, choice=1, answers=gold.answers | {key: wrong})


def test_a_ranking_is_met_whatever_the_order_within_a_rank(project):
    services.update_project(project=project, questions=[{"type": "ranking", "text": "Rank."}])
    run(project, jsonl(question(answers=("a", "b", "c"), ranking=[[2], [1, 0]])), "groups", use="gold")
    gold = GoldAnswer.objects.get()
    assert gold.answers == {"ranking": [[2], [0, 1]]}
    assert is_right(gold, choice=None, answers={"ranking": [[2], [1, 0]]})


@pytest.mark.parametrize(
    ("row", "form", "choice"),
    [
        ({"prompt": "p", "chosen": "good", "rejected": "bad", "explanation": "It is."}, "trl", 0),
        (
            {"chosen": TALK + "a", "rejected": TALK + "b"},
            "hh-rlhf",
            0,
        ),
        (
            {
                "prompt": "p",
                "response_a": "x",
                "response_b": "y",
                "model_a": "m",
                "model_b": "n",
                "winner": "model_b",
            },
            "arena",
            1,
        ),
        ({"prompt": "p", "response_a": "x", "response_b": "y", "choice": "tie"}, "csv", "tie"),
    ],
)
def test_any_format_that_says_who_is_better(project, row, form, choice):
    job = run(project, jsonl(row), form, use="qualification")
    assert rejected(job) == []
    gold = GoldAnswer.objects.get()
    assert (gold.choice, gold.purpose) == (choice, "qualification")
    assert gold.explanation == row.get("explanation", "")
    assert "explanation" not in gold.comparison.meta


def test_pictures(image_project):
    rows = jsonl(image_row("a.png", "b.png"))
    data = zipped({"rows.jsonl": rows, "a.png": png(), "b.png": png(colour="blue")})
    job = run(image_project, data, use="gold")
    assert [line[1:] for line in rejected(job)] == [
        ("judgements", "are 0; a question needs one right answer")
    ]
    rows = jsonl({"prompt": "p", "chosen": "a.png", "rejected": "b.png"})
    data = zipped({"rows.jsonl": rows, "a.png": png(), "b.png": png(colour="blue")})
    run(image_project, data, use="gold")
    assert GoldAnswer.objects.get().choice == 0


def test_what_cannot_be_the_right_answer_is_listed_with_its_reason(project):
    job = run(
        project,
        jsonl(
            question("no answer") | {"judgements": []},
            question("two answers", choice=0) | {"judgements": [{"annotator": n, "choice": 0} for n in "ab"]},
            question("not asked", thumbs=[1, 0]),
            question("no text", choice=0) | {"meta": {"explanation": 7}},
            question("right", choice=0),
        ),
        "groups",
        use="gold",
    )
    assert job.accepted == GoldAnswer.objects.count() == 1
    assert [(line, field) for line, field, _ in rejected(job)] == [
        (1, "judgements"),
        (2, "judgements"),
        (3, "thumbs"),
        (4, "meta.explanation"),
    ]
    assert "not asked by this project's template" in rejected(job)[2][2]


def test_a_comparison_of_the_project_gets_the_answer(project):
    """It stays one comparison with its open slots; a new one is nobody's regular work. Again: replaced."""
    (here,) = factories.add_texts(project, 1)
    texts = list(here.candidates.order_by("index").values_list("text", flat=True))
    data = jsonl(question(here.prompt, texts, choice=1), question("new", choice=0))
    job = run(project, data, "groups", use="gold")
    assert (job.accepted, job.duplicates, Comparison.objects.count()) == (2, 1, 2)
    assert here.gold_answer.choice == 1
    new = Comparison.objects.exclude(pk=here.pk).get()
    assert (new.needed, new.open_slots, new.gold_answer.choice) == (0, 0, 0)
    run(project, jsonl(question(here.prompt, texts, choice=0)), "groups", use="qualification")
    assert GoldAnswer.objects.count() == 2
    assert GoldAnswer.objects.get(comparison=here).choice == 0


def test_an_imported_question_is_asked_and_held_against_the_answer(project, annotator, as_annotator):
    run(project, jsonl(question("test", choice=1, critique="Because.")), "groups", use="qualification")
    services.update_assignment(project=project, pass_mark=1.0, test_attempts=1)
    lease = as_annotator.post(f"/api/v1/projects/{project.pk}/next/").json()
    place = next(item["position"] for item in lease["candidates"] if item["text"] == "bad")
    body = {"client_id": "1c5f40a4-0000-4000-8000-000000000000", "choice": place}
    reply = as_annotator.post(f"/api/v1/leases/{lease['lease']}/judgement/", body).json()
    assert reply["feedback"]["right"] is True
    assert reply["feedback"]["explanation"] == "Because."
    assert reply["feedback"]["result"]["passed"] is True


def test_over_http_and_from_the_page(project, as_manager, manager_page):
    data = jsonl(question(choice=0))
    upload = SimpleUploadedFile("gold.jsonl", data)
    body = {"file": upload, "format": "groups", "use": "gold"}
    reply = as_manager.post(f"/api/v1/projects/{project.pk}/imports/", body, format="multipart")
    assert (reply.status_code, reply.json()["use"]) == (202, "gold")
    page = manager_page.get(f"/projects/{project.pk}/gold/").content.decode()
    assert 'name="use"' in page
    assert "judgements that somebody gave" not in page
    body = {"file": SimpleUploadedFile("t.jsonl", data), "format": "groups", "use": "qualification"}
    manager_page.post(f"/projects/{project.pk}/imports/", body)
    job = ImportJob.objects.latest("pk")
    assert job.use == "qualification"
    services.run_import(job.pk)
    assert GoldAnswer.objects.get().purpose == "qualification"
    with pytest.raises(Invalid, match="judgements, gold, qualification"):
        start(project, data, "groups", use="silver")
