"""Templates: what can be asked together, every default written out, every mistake named by its path."""

import pytest

from annotation import services
from annotation.errors import Invalid
from annotation.template import (
    DEFAULT_QUESTIONS,
    KEYS,
    can_be_judged,
    load_questions,
    parse_questions,
    template_schema,
)
from tests.annotation import factories
from tests.annotation.test_queue import NOW, answer, take

EVERY_TEXT_QUESTION = [
    {"type": "choice"},
    {"type": "aspects", "aspects": [{"name": "helpfulness"}, {"name": "honesty", "title": "Honest?"}]},
    {"type": "ranking"},
    {"type": "ratings", "aspects": [{"name": "overall", "min": 0, "max": 4}]},
    {"type": "thumbs"},
    {"type": "rubric", "criteria": [{"name": "cites", "text": "Cites a source", "weight": 2}]},
    {"type": "tags", "options": [{"name": "wrong_fact"}]},
    {"type": "critique"},
    {"type": "correction"},
    {"type": "marks", "kinds": ["span", "step"], "categories": [{"name": "error"}]},
    {"type": "turns"},
    {"type": "context", "text": "Prefer the shorter answer."},
]


def test_nothing_said_is_one_choice():
    (question,) = parse_questions(None)
    assert question == {
        "type": "choice",
        "text": "Which answer is better?",
        "strength": True,
        "tie": True,
        "both_bad": True,
        "worst": False,
        "required": True,
    }


def test_every_kind_at_once():
    stored = parse_questions(EVERY_TEXT_QUESTION)
    assert [question["type"] for question in stored] == [*KEYS, "context"]
    assert parse_questions(stored) == stored
    assert [question.model_dump() for question in load_questions(stored)] == stored
    assert stored[1]["aspects"] == [
        {"name": "helpfulness", "title": "Helpfulness"},
        {"name": "honesty", "title": "Honest?"},
    ]
    assert stored[3]["aspects"][0] == {
        "name": "overall", "title": "Overall", "scale": "likert", "min": 0, "max": 4, "labels": [],
    }  # fmt: skip
    assert stored[6]["options"] == [{"name": "wrong_fact", "title": "Wrong fact"}]


@pytest.mark.parametrize(
    ("questions", "path"),
    [
        ({}, "questions"),
        ([], "questions"),
        ([{"text": "?"}], "questions.0.type"),
        ([{"type": "mood"}], "questions.0.type"),
        ([{"type": "choice"}, {"type": "thumbs"}, {"type": "choice"}], "questions.2.type"),
        ([{"type": "context", "text": "Be brief."}], "questions"),
        ([{"type": "choice", "strength": "often"}], "questions.0.strength"),
        ([{"type": "choice", "worst": True}, {"type": "ranking"}], "questions.0.worst"),
        ([{"type": "choice", "text": ""}], "questions.0.text"),
        ([{"type": "choice", "text": "\ud800"}], "questions.0.text"),
        ([{"type": "aspects"}], "questions.0.aspects"),
        ([{"type": "aspects", "aspects": []}], "questions.0.aspects"),
        ([{"type": "tags", "options": [{"name": "a"}, {"name": "a"}]}], "questions.0.options"),
        ([{"type": "tags", "options": [{"name": "a b"}]}], "questions.0.options.0.name"),
        ([{"type": "ratings", "aspects": [{"name": "a", "min": 3, "max": 3}]}], "questions.0.aspects.0"),
        ([{"type": "ratings", "aspects": [{"name": "a", "min": 0, "max": 11}]}], "questions.0.aspects.0"),
        ([{"type": "ratings", "aspects": [{"name": "a", "labels": ["x"]}]}], "questions.0.aspects.0"),
        (
            [{"type": "ratings", "aspects": [{"name": "a", "scale": "stars", "min": 2}]}],
            "questions.0.aspects.0",
        ),
        ([{"type": "critique", "min_length": 10, "max_length": 5}], "questions.0"),
        ([{"type": "marks", "kinds": []}], "questions.0.kinds"),
        ([{"type": "marks", "kinds": ["box"]}], "questions.0.kinds"),
        ([{"type": "marks", "kinds": ["span", "span"]}], "questions.0"),
        (
            [{"type": "rubric", "criteria": [{"name": "a", "text": "b", "weight": 1e9}]}],
            "questions.0.criteria.0.weight",
        ),
        ([{"type": "thumbs", "colour": "red"}], "questions.0.colour"),
    ],
)
def test_templates_that_cannot_be(questions, path):
    with pytest.raises(Invalid) as refusal:
        parse_questions(questions)
    assert list(refusal.value.errors) == [path]


def test_what_does_not_go_with_pictures():
    questions = [
        {"type": "correction"},
        {"type": "turns"},
        {"type": "marks", "kinds": ["box", "span", "point"]},
    ]
    with pytest.raises(Invalid) as refusal:
        parse_questions(questions, modality="image")
    assert refusal.value.errors == {
        "questions.0.type": "does not go with pictures.",
        "questions.1.type": "does not go with pictures.",
        "questions.2.kinds": "span cannot be marked here; possible: box, point.",
    }
    parse_questions([{"type": "marks", "kinds": ["box", "point"]}], modality="image")


def test_single_candidates_need_a_question_about_each():
    assert can_be_judged(DEFAULT_QUESTIONS, 2)
    assert not can_be_judged(DEFAULT_QUESTIONS, 1)
    assert can_be_judged(parse_questions([{"type": "thumbs"}]), 1)
    assert not can_be_judged(parse_questions([{"type": "thumbs"}]), 0)


def test_schema_names_every_kind():
    kinds = template_schema()["items"]["discriminator"]["mapping"]
    assert set(kinds) == {*KEYS, "context"}


@pytest.mark.django_db
def test_a_judgement_is_corrected_under_the_template_it_was_given_under(project, annotator):
    factories.add_texts(project, 1)
    judgement, _ = answer(take(project, annotator), annotator, 0)
    services.update_project(project=project, questions=[{"type": "thumbs"}])
    change = {"judgement": judgement, "by": project.created_by, "reason": "A slip.", "now": NOW}
    assert services.correct_judgement(answer={"choice": "tie"}, **change).choice == "tie"
    with pytest.raises(Invalid):
        services.correct_judgement(answer={"thumbs": [1, 0]}, **change)


@pytest.mark.django_db
def test_an_answer_is_checked_against_what_was_shown(project, annotator):
    """The manager takes the tie out while somebody looks at a comparison that still offers it."""
    factories.add_texts(project, 2)
    first = take(project, annotator)
    services.update_project(project=project, questions=[{"type": "choice", "tie": False}])
    second = take(project, annotator, after=first)
    judgement, _ = answer(first, annotator, "tie")
    assert (judgement.choice, judgement.template_version) == ("tie", 1)
    assert services.present(first)["questions"][0]["tie"] is True
    with pytest.raises(Invalid):
        answer(second, annotator, "tie")
    assert answer(second, annotator)[0].template_version == 2
    back = services.undo_judgement(judgement_id=judgement.pk, annotator=annotator, now=NOW)
    assert back.template_version == 1
    answer(back, annotator, "tie")
