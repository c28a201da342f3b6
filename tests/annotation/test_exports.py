"""Files out: what each format holds, and that they come back unchanged; a doubled message is harmless."""

import io
import json
import uuid
import zipfile
from datetime import timedelta

import pytest
from django.core.files.storage import default_storage
from django.utils import timezone

from annotation import services
from annotation.errors import Invalid
from annotation.models import Comparison, ExportJob, Judgement
from tests.annotation import factories
from tests.annotation.files import image_row, jsonl, png, run, zipped

pytestmark = pytest.mark.django_db


def judge(project, user, choices, **values):
    """Answer the queue; each choice is canonical."""
    made = []
    for choice in choices:
        now = timezone.now()
        lease = services.next_lease(project=project, user=user, now=now)
        shown = lease.order.index(choice) if isinstance(choice, int) else choice
        judgement, _ = services.submit_judgement(
            lease_id=lease.pk, annotator=user, client_id=uuid.uuid4(), choice=shown, now=now, **values
        )
        made.append(judgement)
    return made


def export(project, format="groups", **filters):
    job = services.start_export(project=project, by=project.created_by, format=format, filters=filters)
    services.run_export(job.pk)
    job.refresh_from_db()
    assert job.status == "done", job.error
    with default_storage.open(job.storage_key) as file:
        return job, file.read()


def rows_of(data):
    return [json.loads(line) for line in data.splitlines()]


def test_groups(project, annotator):
    factories.add_texts(project, 3)
    first, _ = judge(project, annotator, [1, "tie"])
    job, data = export(project)
    rows = rows_of(data)
    assert (job.rows, len(rows)) == (3, 3)
    judgement = rows[0]["judgements"][0]
    assert rows[0]["candidates"] == [
        {"text": "Answer 0.0", "source": "secret-model-0"},
        {"text": "Answer 0.1", "source": "secret-model-1"},
    ]
    assert (judgement["annotator"], judgement["choice"], judgement["kind"]) == ("anna", 1, "regular")
    assert judgement["order"] == first.order
    assert "strength" not in judgement
    assert rows[1]["judgements"][0]["choice"] == "tie"
    assert rows[2]["judgements"] == []


def test_trl_says_what_it_leaves_out(project, annotator):
    factories.add_texts(project, 5)
    judge(project, annotator, [1, "tie", "both_bad", 0])
    job, data = export(project, "trl")
    assert rows_of(data) == [
        {"prompt": "Question 0?", "chosen": "Answer 0.1", "rejected": "Answer 0.0"},
        {"prompt": "Question 3?", "chosen": "Answer 3.0", "rejected": "Answer 3.1"},
    ]
    assert job.left_out == {"ties": 1, "both bad": 1, "without a judgement": 1}


def test_trl_best_of_three(project, annotator):
    services.add_comparisons(project=project, groups=factories.text_groups(1, k=3))
    judge(project, annotator, [1])
    _, data = export(project, "trl")
    assert [row["rejected"] for row in rows_of(data)] == ["Answer 0.0", "Answer 0.2"]


def test_undone_judgements_are_not_exported(project, annotator):
    factories.add_texts(project, 1)
    (judgement,) = judge(project, annotator, [0])
    services.undo_judgement(judgement_id=judgement.pk, annotator=annotator, now=timezone.now())
    assert rows_of(export(project)[1])[0]["judgements"] == []


def test_filters(project, annotator):
    factories.add_texts(project, 2)
    factories.add_texts(project, 1, held_out=True)
    judge(project, annotator, [0])
    assert len(rows_of(export(project)[1])) == 2
    assert len(rows_of(export(project, held_out=True)[1])) == 3
    assert len(rows_of(export(project, judged=True)[1])) == 1
    assert len(rows_of(export(project, judged=False)[1])) == 1
    assert rows_of(export(project, annotators=["nobody"])[1])[0]["judgements"] == []
    later = (timezone.now() + timedelta(days=1)).isoformat()
    assert rows_of(export(project, since=later)[1])[0]["judgements"] == []
    bad = [({"since": "noon"}, "filters.since"), ({"kinds": ["odd"]}, "filters.kinds.0")]
    for filters, path in [*bad, ({"annotators": ["a\x00"]}, "filters.annotators.0")]:
        with pytest.raises(Invalid) as refusal:
            export(project, **filters)
        assert list(refusal.value.errors) == [path]


def round_trip(project, manager, format, modality="text"):
    """The exported file, and the file exported from a new project that imported it."""
    _, first = export(project, format)
    copy = factories.make_project(by=manager, modality=modality, labels_per_comparison=1)
    assert run(copy, first, format).rejected == 0
    return first, export(copy, format)[1]


def test_round_trip_of_groups(project, manager, annotator):
    services.update_project(project=project, labels_per_comparison=2)
    factories.add_texts(project, 3)
    (other,) = factories.add_annotators(project, 1)
    judge(project, annotator, [0, "tie", 1], strength=None)
    judge(project, other, [1, 1, "both_bad"])
    rich = {
        "prompt": [{"role": "user", "content": "مرحبا 👋 \u2028"}],
        "candidates": [
            {"text": "a", "source": "m"},
            {"text": [{"role": "assistant", "content": "b"}]},
            {"text": "c"},
        ],
        "judgements": [
            {
                "annotator": "kim",
                "ranking": [[2], [0, 1]],
                "ratings": [{"help": 1.5}, {}, {"help": 2}],
                "context": {"a": 1},
            },
            {
                "annotator": "kim",
                "kind": "judge",
                "choice": 2,
                "strength": 3,
                "seconds": 0.25,
                "critique": "short",
            },
            {"marks": [{"candidate": 0, "type": "span", "start": 0, "end": 1, "severity": "major"}]},
        ],
        "reference": {"text": "c"},
        "meta": {"n": 1, "list": [1.5, None, "x"]},
    }
    assert run(project, jsonl(rich), "groups").accepted == 1
    first, second = round_trip(project, manager, "groups")
    assert first == second
    assert Judgement.objects.count() == 2 * 9
    _, third = round_trip(Comparison.objects.order_by("pk").last().project, manager, "groups")
    assert third == first


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "completion": "a", "label": True},
        {"prompt": "p"},
        {"prompt": "p", "completions": ["1. a", "2. b"], "labels": [True, False]},
        {
            "prompt": [{"role": "user", "content": "p"}],
            "chosen": [{"role": "assistant", "content": "a"}],
            "rejected": [{"role": "assistant", "content": "b"}],
        },
    ],
)
def test_round_trip_of_trl(project, manager, row):
    data = jsonl(row, {**row, "prompt": row["prompt"] * 2})
    run(project, data)
    first, second = round_trip(project, manager, "trl")
    assert first == second == data


def test_round_trip_of_images(manager):
    project = factories.make_project(by=manager, modality="image")
    members = {
        "x.jsonl": jsonl({"prompt": "p", "chosen": "a.png", "rejected": "b.png"}, image_row("b.png", "a.png"))
    }
    members |= {"a.png": png(), "b.png": png(colour="blue")}
    assert run(project, zipped(members)).accepted == 2
    first, second = round_trip(project, manager, "groups", "image")
    assert first == second
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        names = sorted(archive.namelist())
        rows = rows_of(archive.read("data.jsonl"))
    assert names == ["data.jsonl", *sorted({f"media/{item['image']}" for item in rows[0]["candidates"]})]
    assert set(rows[0]["candidates"][0]) == {"image"}
    trl_first, trl_second = round_trip(project, manager, "trl", "image")
    assert trl_first == trl_second


def test_later_judgements_do_not_change_a_queued_export(project, annotator):
    factories.add_texts(project, 1)
    job = services.start_export(project=project, by=project.created_by, format="groups")
    judge(project, annotator, [0])
    services.run_export(job.pk)
    job.refresh_from_db()
    with default_storage.open(job.storage_key) as file:
        assert rows_of(file.read())[0]["judgements"] == []


def test_a_doubled_message_writes_once(project, monkeypatch):
    factories.add_texts(project, 1)
    job = services.start_export(project=project, by=project.created_by, format="groups")
    from annotation.services import exports

    write = exports._write

    def other_first(*arguments):
        monkeypatch.setattr(exports, "_write", write)
        services.run_export(job.pk)
        return write(*arguments)

    monkeypatch.setattr(exports, "_write", other_first)
    services.run_export(job.pk)
    services.run_export(job.pk)
    job.refresh_from_db()
    assert default_storage.exists(job.storage_key)
    assert ExportJob.objects.count() == 1


def test_judged_groups_are_two_queries(project, annotator, django_assert_num_queries):
    factories.add_texts(project, 30)
    judge(project, annotator, [0] * 25)
    with django_assert_num_queries(2):
        groups = list(services.judged_groups(project=project, before=timezone.now(), filters={}))
    assert len(groups) == 25
    assert set(groups[0]) == {"prompt", "candidates", "judgements"}


def test_judged_groups_as_they_stood(project, annotator):
    """A judgement that was taken back after the cut-off stood at the cut-off."""
    factories.add_texts(project, 2)
    (first, _) = judge(project, annotator, [0, 1])
    cutoff = timezone.now()
    services.undo_judgement(judgement_id=first.pk, annotator=annotator, now=timezone.now())
    groups = services.judged_groups
    assert len(list(groups(project=project, before=cutoff, filters={}))) == 2
    assert len(list(groups(project=project, before=timezone.now(), filters={}))) == 1
    assert not list(groups(project=project, before=first.created_at, filters={}))


def test_judged_groups_name_the_stored_image(manager):
    project = factories.make_project(by=manager, modality="image")
    members = {"x.jsonl": jsonl({"prompt": "p", "chosen": "a.png", "rejected": "b.png"})}
    run(project, zipped(members | {"a.png": png(), "b.png": png(colour="blue")}))
    (group,) = services.judged_groups(project=project, before=timezone.now(), filters={})
    candidate = group["candidates"][0]
    assert candidate["image"].endswith(".png")
    assert default_storage.exists(candidate["storage_key"])
