"""Answers of every kind in group rows: out, in and out again without a change."""

import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation import services
from annotation.errors import Invalid
from annotation.models import Judgement, Lease
from tests.annotation import factories, strategies
from tests.annotation.files import jsonl, rejected, run
from tests.annotation.test_answers import says_something
from tests.annotation.test_exports import export, rows_of
from training.tuning.data import Group

pytestmark = pytest.mark.django_db


def numbered(texts):
    """The texts, made different from one another."""
    return [
        f"{text} ({n})" if isinstance(text, str) else [*text, {"role": "assistant", "content": f"({n})"}]
        for n, text in enumerate(texts)
    ]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_submitted_exported_imported_exported(data):
    """Random templates, candidates and answers of two people: the second file says what the first says."""
    template = data.draw(strategies.templates())
    texts = numbered(data.draw(st.lists(strategies.TEXTS, min_size=1, max_size=4)))
    meta = {"context": "A child reads it."} if data.draw(st.booleans()) else {}
    project = factories.make_project(questions=template, labels_per_comparison=2)
    group = {"prompt": f"p{uuid.uuid4()}", "candidates": [{"text": text} for text in texts], "meta": meta}
    services.add_comparisons(project=project, groups=[group], needed=2)
    for user in factories.add_annotators(project, 2):
        lease = services.next_lease(project=project, user=user, now=factories.NOW)
        # The order is drawn too: one that the queue rolled would make the draws that follow irreproducible.
        order = data.draw(st.permutations(range(len(texts))))
        Lease.objects.filter(pk=lease.pk).update(order=order)
        answer = data.draw(strategies.answers(template, [texts[index] for index in order]))
        if any(says_something(key, value) for key, value in answer.items()):
            services.submit_judgement(
                lease_id=lease.pk, annotator=user, client_id=uuid.uuid4(), answers=answer, now=factories.NOW
            )
    job, first = export(project)
    assert job.left_out == {}
    copy = factories.make_project(questions=template)
    assert rejected(run(copy, first, "groups")) == []
    assert rows_of(export(copy)[1]) == rows_of(first)
    (row,) = rows_of(first)
    Group.model_validate(row)
    ours, theirs = (
        list(Judgement.objects.filter(comparison__project=each).order_by("pk")) for each in (project, copy)
    )
    for name in ("choice", "strength", "answers", "differences", "order", "template_version"):
        assert [getattr(one, name) for one in ours] == [getattr(one, name) for one in theirs], name


EVERY_KEY = {
    "annotator": "kim",
    "annotator_group": "experts",
    "kind": "review",
    "order": [2, 0, 1],
    "choice": 1,
    "strength": 3,
    "aspects": {"tone": {"choice": 0, "strength": 1}, "length": {"choice": "tie"}},
    "ranking": [[1], [0, 2]],
    "ratings": [{"helpfulness": 4, "style": 2.5}, {}, {"helpfulness": 0}],
    "thumbs": [1, None, 0],
    "tags": ["rude"],
    "rubric": [{"cites": True}, {}, {"cites": False}],
    "marks": [
        {"candidate": 0, "type": "span", "start": 0, "end": 1, "category": "wrong", "severity": 2},
        {"candidate": 1, "type": "step", "step": 0, "start": 0, "end": 1, "first_error": True},
        {"candidate": 2, "type": "point", "point": [0, 0.5]},
    ],
    "critique": "Hm.",
    "corrections": [None, "better", [{"role": "assistant", "content": "best"}]],
    "turns": [{"turn": 0, "choice": 2}],
    "context": {"reader": "a child"},
    "template_version": 7,
    "seconds": 1.5,
    "at": datetime(2025, 1, 31, 12, tzinfo=UTC).isoformat(),
}


def test_every_key_of_a_judgement_round_trips(project):
    group = {"prompt": "p", "candidates": [{"text": text} for text in "abc"], "judgements": [EVERY_KEY]}
    assert rejected(run(project, jsonl(group), "groups")) == []
    job, data = export(project)
    assert rows_of(data) == [group]
    assert job.left_out == {}
    assert Judgement.objects.get().differences == [
        None, [["replace", 0, 1, 0, 6]], [["replace", 0, 1, 0, 4]],
    ]  # fmt: skip
    assert Group.model_validate(group).judgements[0].turns[0].choice == 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"aspects": {"tone": {"choice": 3}}}, "judgements.0.aspects.tone.choice"),
        ({"aspects": {"tone": {"choice": 0, "strength": 4}}}, "judgements.0.aspects.tone.strength"),
        ({"turns": [{"turn": 0, "choice": 3}]}, "judgements.0.turns.0.choice"),
        ({"thumbs": [1]}, "judgements.0.thumbs"),
        ({"marks": [{"candidate": 5, "type": "span"}]}, "judgements.0.marks.0.candidate"),
        ({"mood": "good"}, "judgements.0.mood"),
    ],
)
def test_rows_that_do_not_fit(project, change, field):
    judgement = {"annotator": "kim", "order": [0, 1, 2]} | change
    group = {"prompt": "p", "candidates": [{"text": text} for text in "abc"], "judgements": [judgement]}
    assert [where for _, where, _ in rejected(run(project, jsonl(group), "groups"))] == [field]


def test_nine_candidates_are_ranked_at_most(manager):
    """A ranking project takes no more on import, and a project that has more takes no ranking."""
    ten = factories.text_groups(1, k=10)
    ranking = factories.make_project(by=manager, questions=[{"type": "ranking"}])
    ((_, field, reason),) = rejected(run(ranking, jsonl(*ten), "groups"))
    assert (field, "9" in reason) == ("candidates", True)
    assert rejected(run(ranking, jsonl(*factories.text_groups(1, k=9)), "groups")) == []
    choices = factories.make_project(by=manager)
    services.add_comparisons(project=choices, groups=ten)
    questions = [{"type": "choice"}, {"type": "ranking"}]
    with pytest.raises(Invalid) as refusal:
        services.update_project(project=choices, questions=questions)
    assert list(refusal.value.errors) == ["questions.1.type"]
