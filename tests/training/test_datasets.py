"""Snapshots: deterministic, split by prompt, and deaf to later judgements."""

import json
import math
import zipfile
from datetime import UTC, datetime, timedelta

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage

from annotation.errors import Invalid
from annotation.models import Judgement
from annotation.services import add_comparisons
from annotation.services.media import store_image
from annotation.template import rename_candidates
from tests.annotation.files import png
from tests.training import factories
from training import datasets, services, storage
from training.models import Snapshot
from training.services import queue

pytestmark = pytest.mark.django_db


def snapshot_of(project, **values) -> Snapshot:
    return Snapshot.objects.create(project=project, **{"cutoff": queue.database_now()} | values)


def rows_of(frozen, name="train.jsonl") -> list[dict]:
    with storage.local_copy(frozen.storage_key) as path, zipfile.ZipFile(path) as archive:
        if name not in archive.namelist():
            return []
        return [json.loads(line) for line in archive.read(name).splitlines()]


def test_rows_and_counts(project):
    frozen = datasets.store_snapshot(snapshot_of(project))
    rows = rows_of(frozen)
    assert [row["prompt"] for row in rows] == [f"Question {number}?" for number in range(10)]
    assert rows[0]["candidates"][0] == {"text": "Good 0.", "source": "a"}
    assert rows[0]["judgements"][0]["choice"] == 0
    assert frozen.counts == {
        "groups": 10, "judgements": 10, "annotators": 1, "prompts": 10, "train_groups": 10, "eval_groups": 0,
        "groups_with_empty_answers": 0, "groups_with_pictured_prompts": 0,
    }  # fmt: skip


def test_group_with_an_empty_answer_is_left_out_and_counted(project):
    """A model may write nothing; people judge that, but no trainer learns from it."""
    group = {
        "prompt": "p",
        "candidates": [{"text": "", "source": ""}, {"text": [{"role": "assistant", "content": "x"}]}],
        "judgements": [{"annotator": "a", "kind": "regular", "order": [0, 1], "choice": 1}],
    }
    add_comparisons(project=project, groups=[group])
    frozen = datasets.store_snapshot(snapshot_of(project))
    assert (frozen.counts["groups"], frozen.counts["groups_with_empty_answers"]) == (10, 1)


def test_a_picture_in_a_prompt_goes_along(project):
    """Vision-language models read it: the row names the file, which lies under media/, in both snapshots."""
    picture = store_image(png()).sha256
    prompt = [{"role": "user", "content": [{"type": "image", "image": picture}]}]
    group = {
        "prompt": prompt,
        "candidates": [{"text": "A dog."}, {"text": "A cat."}],
        "judgements": [{"annotator": "a", "choice": 1}],
    }
    add_comparisons(project=project, groups=[group])
    for prompts_only in (False, True):
        frozen = datasets.store_snapshot(snapshot_of(project, prompts_only=prompts_only))
        assert (frozen.counts["groups"], frozen.counts["groups_with_pictured_prompts"]) == (11, 0)
        (row,) = (row for row in rows_of(frozen) if isinstance(row["prompt"], list))
        assert "prompt_images" not in row
        ((part,),) = (message["content"] for message in row["prompt"])
        with storage.local_copy(frozen.storage_key) as path, zipfile.ZipFile(path) as archive:
            assert f"media/{part['image']}" in archive.namelist()


def test_image_models_draw_from_words_alone(project):
    """In a project of pictures, a picture in a prompt has no reader: the row is left out and counted."""
    rows = [{"prompt": "p", "prompt_images": {"a.png": "key"}}, {"prompt": "p"}]
    left_out = []
    assert list(datasets.without_pictured_prompts(rows, left_out)) == rows[1:]
    assert left_out == [0]


def test_same_judgements_same_bytes(project):
    first, second = (datasets.store_snapshot(snapshot_of(project, eval_fraction=0.3)) for _ in range(2))
    assert first == second


def test_later_judgements_change_nothing(project):
    snapshot = snapshot_of(project)
    before = datasets.store_snapshot(snapshot)
    factories.add_judged(project, prompts=5, start=100)
    assert datasets.store_snapshot(snapshot) == before
    assert datasets.store_snapshot(snapshot_of(project)).counts["groups"] == 15


def test_frozen_once(project, monkeypatch):
    snapshot = snapshot_of(project)
    services.freeze_snapshot(snapshot_id=snapshot.pk)
    monkeypatch.setattr(datasets, "store_snapshot", lambda _: pytest.fail("was frozen again"))
    services.freeze_snapshot(snapshot_id=snapshot.pk)
    snapshot.refresh_from_db()
    assert snapshot.frozen_at is not None
    assert default_storage.exists(snapshot.storage_key)


def test_undone_judgement_before_the_cutoff_is_left_out(project):
    judgement = Judgement.objects.order_by("pk").first()
    judgement.undone_at = queue.database_now()
    judgement.save()
    assert datasets.store_snapshot(snapshot_of(project)).counts["judgements"] == 9


def test_split_by_prompt(project):
    factories.add_judged(project, prompts=10)  # the same prompts again
    frozen = datasets.store_snapshot(snapshot_of(project, eval_fraction=0.4))
    train, held_out = rows_of(frozen), rows_of(frozen, "eval.jsonl")
    assert {row["prompt"] for row in train}.isdisjoint(row["prompt"] for row in held_out)
    assert len(train) + len(held_out) == 20
    assert frozen.counts["eval_groups"] == len(held_out) > 0


def test_split_is_stable_when_data_grows(project):
    before = rows_of(datasets.store_snapshot(snapshot_of(project, eval_fraction=0.5)), "eval.jsonl")
    factories.add_judged(project, prompts=20, start=100)
    after = rows_of(datasets.store_snapshot(snapshot_of(project, eval_fraction=0.5)), "eval.jsonl")
    assert {row["prompt"] for row in before} <= {row["prompt"] for row in after}


def test_split_has_the_wanted_size():
    """1,000 prompts, 0.2: the number is binomial with a standard deviation of 12.6."""
    scores = [datasets.split_score(f"p{number}", seed=1) for number in range(1000)]
    assert abs(sum(score < 0.2 for score in scores) - 200) < 4 * math.sqrt(1000 * 0.2 * 0.8)


def test_split_leaves_one_prompt_on_each_side():
    assert datasets.split_cut({0.5, 0.6, 0.7}, 0.1) == 0.6  # 0.5 is held out
    assert datasets.split_cut({0.01, 0.02}, 0.9) == 0.02  # 0.02 is trained on
    assert datasets.split_cut({0.1, 0.2, 0.9}, 0.5) == 0.5
    assert datasets.split_cut({0.5}, 0.0) == 0.0
    with pytest.raises(datasets.EmptySnapshot, match="one prompt"):
        datasets.split_cut({0.5}, 0.1)


def test_another_seed_another_split(project):
    splits = {
        tuple(
            row["prompt"]
            for row in rows_of(
                datasets.store_snapshot(snapshot_of(project, eval_fraction=0.5, seed=seed)), "eval.jsonl"
            )
        )
        for seed in range(5)
    }
    assert len(splits) > 1


def test_shuffled_labels_are_chance(project):
    """Answer 0 won 500 times; shuffled, about half the time: within four standard deviations of 11.2."""
    factories.add_judged(project, prompts=500, start=100)
    frozen = datasets.store_snapshot(snapshot_of(project, shuffle_labels=True, seed=3))
    choices = [judgement["choice"] for row in rows_of(frozen) for judgement in row["judgements"]]
    assert abs(choices.count(0) - 255) < 46
    assert set(choices) == {0, 1}
    assert datasets.store_snapshot(snapshot_of(project, shuffle_labels=True, seed=3)) == frozen


def test_renamed_candidates_by_hand():
    judgement = {
        "choice": 0,
        "order": [2, 0, 1],
        "ranking": [[0], [1, 2]],
        "thumbs": [1, 0, None],
        "marks": [{"candidate": 1, "type": "step"}],
    }
    assert rename_candidates(judgement, [2, 0, 1]) == {
        "choice": 2,
        "order": [2, 0, 1],
        "ranking": [[2], [0, 1]],
        "thumbs": [0, None, 1],
        "marks": [{"candidate": 0, "type": "step"}],
    }
    assert rename_candidates({"choice": "tie"}, [1, 0]) == {"choice": "tie"}


def test_filters(project):
    factories.add_judged(project, prompts=4, start=100, votes=3)
    groups = {
        (("annotators", ("import2",)),): 4,
        (("without_annotators", ("import0",)),): 4,
        (("since", "2999-01-01T00:00:00Z"),): 0,
        (("kinds", ("gold",)),): 0,
    }
    for filters, count in groups.items():
        wanted = datasets.check_filters({name: list(v) if isinstance(v, tuple) else v for name, v in filters})
        if not count:
            with pytest.raises(datasets.EmptySnapshot, match="No judgement passes the filters"):
                datasets.store_snapshot(snapshot_of(project, filters=wanted))
            continue
        assert datasets.store_snapshot(snapshot_of(project, filters=wanted)).counts["groups"] == count


def test_agreement_filter():
    def group(*choices):
        return {"judgements": [{"annotator": str(i), "choice": choice} for i, choice in enumerate(choices)]}

    split, clear, tied = group(0, 1, 0), group(1, 1, 1), group("tie", 0)
    kept = datasets.keep([split, clear, tied], datasets.Filters(min_agreement=0.6))
    assert list(kept) == [split, clear]


def test_speed_filter():
    group = {"judgements": [{"annotator": "a", "seconds": 0.5}, {"annotator": "b", "seconds": 5}]}
    (kept,) = datasets.keep([group], datasets.Filters(min_seconds=1))
    assert [judgement["annotator"] for judgement in kept["judgements"]] == ["b"]


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        ({"nonsense": 1}, "filters.nonsense"),
        ({"since": "yesterday"}, "filters.since"),
        ({"since": "2026-01-01T00:00:00"}, "filters.since"),
        ({"kinds": ["odd"]}, "filters.kinds.0"),
        ({"min_agreement": 2}, "filters.min_agreement"),
        ({"annotators": []}, "filters.annotators"),
        ([], "filters"),
    ],
)
def test_bad_filters(filters, field):
    with pytest.raises(Invalid) as refused:
        datasets.check_filters(filters)
    assert list(refused.value.errors) == [field]


def test_filters_are_stored_as_json():
    since = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=1)
    assert datasets.check_filters({"since": since.isoformat()}) == {"since": "2026-01-01T01:00:00Z"}


def test_nothing_to_learn_from(manager):
    empty = factories.make_project(by=manager)
    with pytest.raises(datasets.EmptySnapshot, match="no judgements"):
        datasets.store_snapshot(snapshot_of(empty))


def test_images_are_laid_beside_the_rows():
    default_storage.save("media/x.png", ContentFile(b"png"))
    row = {"prompt": "a cat", "candidates": [{"image": "x.png", "storage_key": "media/x.png"}]}
    frozen = datasets.store_rows([row])
    assert rows_of(frozen)[0]["candidates"] == [{"image": "x.png"}]
    with storage.local_copy(frozen.storage_key) as path, zipfile.ZipFile(path) as archive:
        assert archive.read("media/x.png") == b"png"


def test_given_rows_are_checked():
    with pytest.raises(Invalid) as refused:
        datasets.store_rows([{"prompt": "p"}, {"prompt": "p", "candidates": [{"text": ""}]}])
    assert list(refused.value.errors) == ["rows.1.candidates.0"]
