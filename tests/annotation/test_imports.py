"""Rows from strangers: what they become, and which are refused with which words."""

import json
import os

import pytest
from django.utils import timezone

from annotation import services
from annotation.errors import Invalid
from annotation.models import Comparison, Judgement
from tests.annotation.files import GOOD, jsonl, rejected, run, start

pytestmark = pytest.mark.django_db


# What the formats mean


def test_unlabelled(project):
    job = run(
        project, jsonl({**GOOD, "topic": "sums"}, {"prompt": "Say hi", "responses": ["hi", "hello", "hey"]})
    )
    assert (job.status, job.accepted, job.rejected) == ("done", 2, 0)
    first, second = Comparison.objects.order_by("rank")
    assert (first.prompt, first.meta, first.needed, first.open_slots) == (
        "What is 2 + 2?",
        {"topic": "sums"},
        1,
        1,
    )
    assert [candidate.text for candidate in second.candidates.order_by("index")] == ["hi", "hello", "hey"]
    assert first.import_job == job


def test_labelled(project):
    services.update_project(project=project, labels_per_comparison=3)
    run(project, jsonl({"prompt": "p", "chosen": "good", "rejected": "bad"}))
    comparison, judgement = Comparison.objects.get(), Judgement.objects.get()
    assert (comparison.needed, comparison.open_slots) == (2, 2)
    assert (judgement.choice, judgement.order, judgement.kind) == (0, [0, 1], "regular")
    assert comparison.candidates.get(index=0).text == "good"
    assert (judgement.annotator.is_active, judgement.annotator.has_usable_password()) == (False, False)


def test_labels_fill_the_only_slot(project):
    run(project, jsonl({"prompt": "p", "chosen": "good", "rejected": "bad"}))
    assert Comparison.objects.get().needed == 0


def test_thumbs_and_prompts_are_not_shown_to_anybody(project, annotator):
    run(project, jsonl({"prompt": "p", "completion": "c", "label": False}, {"prompt": "only a prompt"}))
    assert Judgement.objects.get().answers == {"thumbs": [0]}
    assert services.next_lease(project=project, user=annotator, now=timezone.now()) is None


def test_conversations(project):
    ask = [{"role": "user", "content": "hi"}]
    answers = [[{"role": "assistant", "content": text}] for text in ("hello", "go away")]
    run(
        project,
        jsonl(
            {"prompt": ask, "chosen": answers[0], "rejected": answers[1]},
            {"chosen": ask + answers[0], "rejected": ask + answers[1]},  # the prompt is what they share
        ),
    )
    for comparison in Comparison.objects.all():
        assert comparison.prompt == ask
        assert [candidate.text for candidate in comparison.candidates.order_by("index")] == answers
    assert len(set(Comparison.objects.values_list("prompt_key", flat=True))) == 1


def test_groups(project):
    row = {
        "prompt": "p",
        "candidates": [{"text": "a", "source": "model-1"}, {"text": "b"}, {"text": "c"}],
        "judgements": [
            {
                "annotator": "kim",
                "order": [2, 0, 1],
                "choice": 2,
                "strength": 3,
                "seconds": 4,
                "tags": ["terse"],
            },
            {"annotator": "lee", "ranking": [[0], [2, 1]], "at": "2025-01-02T03:04:05+02:00"},
            {"annotator": "lee", "kind": "judge", "choice": "tie", "thumbs": [1, 0, 1]},
        ],
        "reference": "the answer",
        "meta": {"topic": "x"},
    }
    services.update_project(project=project, labels_per_comparison=3)
    assert run(project, jsonl(row), "groups").accepted == 1
    comparison = Comparison.objects.get()
    assert (comparison.needed, comparison.reference, comparison.meta) == (1, "the answer", {"topic": "x"})
    kim, lee, judge = Judgement.objects.order_by("pk")
    assert (kim.annotator.username, kim.choice, kim.answers) == ("import:kim", 2, {"tags": ["terse"]})
    assert lee.created_at.isoformat() == "2025-01-02T01:04:05+00:00"
    assert (judge.kind, judge.choice, judge.answers) == ("judge", "tie", {"thumbs": [1, 0, 1]})


def test_held_out(project):
    run(project, jsonl(GOOD), held_out=True)
    assert Comparison.objects.get().held_out


# Rows that cannot be imported do not stop those that can


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ("prompt: hi", "", "The line is not JSON"),
        ('{"prompt": "p", "responses": ["a"', "", "The line is not JSON"),
        ('{"prompt": "p", "responses": ["a\x00", "b"]}', "", "The line is not JSON"),
        ('["prompt"]', "", "The line is a list, not an object"),
        ('{"prompt": NaN, "responses": ["a", "b"]}', "", "NaN is not a JSON number"),
        ('{"prompt": "p", "responses": ["a", "b"], "score": 1e999}', "", "1e999 is too large a number"),
        ("[" * 100_000, "", "The line is nested too deeply"),
        ('{"prompt": "p", "responses": ["a\\u0000", "b"]}', "responses.0", "contains a NUL character"),
        (
            '{"prompt": "p", "responses": ["a", "b\\ud800"]}',
            "responses.1",
            "contains half of a surrogate pair",
        ),
        ({"responses": ["a", "b"]}, "prompt", "is missing"),
        ({"prompt": "p", "chosen": "a"}, "rejected", "is missing"),
        ({"prompt": "p", "rejected": "a"}, "chosen", "is missing"),
        ({"prompt": "p", "chosen": "a", "rejected": ""}, "rejected", "is empty"),
        ({"prompt": "p", "chosen": " \n", "rejected": "b"}, "chosen", "is empty"),
        ({"prompt": "", "responses": ["a", "b"]}, "prompt", "is empty"),
        ({"prompt": ""}, "prompt", "is empty"),
        ({"prompt": "p", "responses": ["a", True]}, "responses.1", "is true (a boolean)"),
        ({"prompt": "p", "responses": ["a", None]}, "responses.1", "is null"),
        ({"prompt": "p", "responses": ["a"]}, "responses", "has 1 answers"),
        ({"prompt": "p", "responses": "ab"}, "responses", "is a text"),
        ({"prompt": "p", "responses": ["same", "same"]}, "responses.0 and responses.1", "are all the same"),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "label": True},
            "completion",
            "do not belong into one row",
        ),
        ({"prompt": "p", "completion": "a", "label": 1}, "label", "is 1 (a number)"),
        ({"prompt": [{"role": "user"}], "responses": ["a", "b"]}, "prompt", "message 0 must have"),
        ({"prompt": "p", "responses": [[], "b"]}, "responses.0", "is an empty list"),
        ({"chosen": "a", "rejected": "b"}, "prompt", "is missing"),
    ],
)
def test_bad_rows(project, row, field, reason):
    job = run(project, jsonl(GOOD, row, {**GOOD, "prompt": "another"}))
    assert (job.status, job.accepted, job.rejected) == ("done", 2, 1)
    ((line, found_field, found_reason),) = rejected(job)
    if reason == "do not belong into one row":
        assert reason in found_reason
    else:
        assert (line, found_field) == (2, field)
        assert reason in found_reason


def judged(**judgement):
    return {"prompt": "p", "candidates": [{"text": "a"}, {"text": "b"}], "judgements": [judgement]}


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"prompt": "p", "candidates": []}, "candidates", "at least 1 item"),
        ({"prompt": "p"}, "candidates", "is missing"),
        (
            {"prompt": "p", "candidates": [{"text": "a"}], "model": "x"},
            "model",
            "unknown key; put it into `meta`",
        ),
        ({"prompt": "p", "candidates": [{"txt": "a"}]}, "candidates.0.txt", "unknown key"),
        ({"prompt": "p", "candidates": [{"source": "m"}]}, "candidates.0", "either `text` or `image`"),
        (
            {"prompt": "p", "candidates": [{"image": "a.png"}]},
            "candidates.0.text",
            "this project compares texts",
        ),
        ({"prompt": "p", "candidates": [{"text": "a"}, {"text": "a"}]}, "candidates", "are all the same"),
        (judged(choice=2), "judgements.0.choice", "2 is no candidate"),
        (judged(choice=True), "judgements.0.choice", "valid integer"),
        (judged(choice="left"), "judgements.0.choice", ""),
        (judged(order=[0, 0]), "judgements.0.order", "each of the 2 candidates once"),
        (judged(strength=4), "judgements.0.strength", "less than or equal to 3"),
        (judged(ranking=[[0], [0]]), "judgements.0.ranking", "at most once"),
        (judged(thumbs=[1]), "judgements.0.thumbs", "1 entries for 2 candidates"),
        (judged(at="2999-01-01"), "judgements.0.at", "lies in the future"),
        (judged(at="yesterday"), "judgements.0.at", "Invalid isoformat"),
        (judged(kind="guess"), "judgements.0.kind", "regular"),
        (
            judged(marks=[{"candidate": 2, "type": "span"}]),
            "judgements.0.marks.0.candidate",
            "2 is no candidate",
        ),
    ],
)
def test_bad_groups(project, row, field, reason):
    job = run(project, jsonl(row), "groups")
    ((line, found_field, found_reason),) = rejected(job)
    assert (line, found_field) == (1, field)
    assert reason in found_reason
    assert not Comparison.objects.exists()


def test_two_judgements_of_one_annotator(project):
    row = judged(annotator="kim", choice=0)
    row["judgements"] *= 2
    ((_, field, reason),) = rejected(run(project, jsonl(row), "groups"))
    assert (field, "'kim' has a second regular judgement" in reason) == ("judgements.1.annotator", True)


def test_duplicate_rows_are_imported_and_counted(project):
    """Public files repeat a pair for each of its annotators: every row is a comparison of its own."""
    swapped = {**GOOD, "responses": GOOD["responses"][::-1]}
    job = run(project, jsonl(GOOD, GOOD, swapped, GOOD))
    assert (job.accepted, job.duplicates, Comparison.objects.count()) == (4, 2, 4)


def test_mark_of_utf8_and_windows_lines_and_no_last_newline(project):
    data = b"\xef\xbb\xbf" + jsonl(GOOD).replace(b"\n", b"\r\n") + b"\r\n \n" + json.dumps(GOOD).encode()
    job = run(project, data)
    assert (job.status, job.accepted, job.rejected) == ("done", 2, 0)


def test_utf16_is_named(project):
    job = run(project, jsonl(GOOD).decode().encode("utf-16"))
    assert job.status == "failed"
    assert "The file is UTF-16" in job.error


def test_another_encoding_is_named_by_line(project):
    data = jsonl(GOOD) + '{"prompt": "café", "responses": ["a", "b"]}\n'.encode("latin-1")
    ((line, field, reason),) = rejected(run(project, data))
    assert (line, field) == (2, "")
    assert "Byte 16 of the line is not UTF-8" in reason


def test_very_long_lines(project):
    long_but_fine = {**GOOD, "responses": ["a" * 3_000_000, "b"]}
    too_long = {**GOOD, "responses": ["a" * 9_000_000, "b"]}
    job = run(project, jsonl(long_but_fine, too_long, GOOD))
    assert (job.status, job.accepted) == ("done", 2)
    assert rejected(job) == [(2, "", "The line is longer than 8 MiB.")]


def test_not_even_text(project):
    job = run(project, os.urandom(5000).replace(b"PK", b"") + b"\n" + jsonl(GOOD))
    assert (job.status, job.accepted) == ("done", 1)
    assert job.rejected >= 1


def test_empty_file(project):
    with pytest.raises(Invalid, match="is empty"):
        start(project, b"")


def test_too_large_a_file(project, settings):
    settings.IMPORT_MAX_BYTES = 10
    with pytest.raises(Invalid, match="10 at most"):
        start(project, jsonl(GOOD))
