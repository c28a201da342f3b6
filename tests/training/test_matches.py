"""Blind matches: from two generation runs to a win rate."""

import io
import json
import uuid

import pytest
from django.core.files.storage import default_storage
from django.utils import timezone
from PIL import Image

from annotation.errors import Invalid
from annotation.models import Comparison, Judgement
from tests.annotation.factories import make_user
from tests.training import factories
from training import services, storage
from training.models import Checkpoint, Match, Run

pytestmark = pytest.mark.django_db


@pytest.fixture
def other(manager, tmp_path, base):
    return factories.make_base(tmp_path / "models" / "other", name="other", by=manager)


@pytest.fixture
def match(manager, project, other):
    return services.create_match(
        by=manager, project=project, left="tiny", right="other", prompts=["p0", "p1", "p2", "p3"]
    )


def finish(run: Run, answers: list[list[str]], tmp_path, rows: list[int] | None = None) -> None:
    """As if the run had written these answers to its prompts."""
    folder = tmp_path / f"result-{run.pk}"
    (folder / "media").mkdir(parents=True)
    with (folder / "generations.jsonl").open("w") as file:
        for number, texts in zip(rows or range(len(answers)), answers, strict=False):
            row = {
                "prompt": f"p{number}",
                "candidates": [{"text": text} for text in texts],
                "meta": {"row": number},
            }
            file.write(json.dumps(row) + "\n")
    stored = storage.put_zip(folder, folder="checkpoints")
    Checkpoint.objects.create(run=run, storage_key=stored.key, sha256=stored.sha256, size=stored.size)
    Run.objects.filter(pk=run.pk).update(status="done")


def judge(comparison: Comparison, choice: object) -> None:
    user = make_user()
    Judgement.objects.create(
        comparison=comparison, annotator=user, order=[0, 1], choice=choice, template_version=1,
        created_at=timezone.now(), client_id=uuid.uuid4(), request_digest="",
    )  # fmt: skip


def test_two_generations_with_different_seeds(match):
    left, right = match.left_run, match.right_run
    assert (left.base.name, right.base.name) == ("tiny", "other")
    assert (left.status, right.status) == ("queued", "queued")
    assert left.seed != right.seed
    assert left.snapshot.sha256 == right.snapshot.sha256
    assert match.prompts == 4


def test_comparisons_are_blind_and_held_out(match, tmp_path):
    assert services.advance_matches() == 0
    finish(match.left_run, [["l0"], ["l1"], ["same"], ["l3"]], tmp_path)
    assert services.advance_matches() == 0
    finish(match.right_run, [["r0"], ["r1"], ["same"], ["r3"]], tmp_path)
    assert services.advance_matches() == 1
    assert services.advance_matches() == 0
    match.refresh_from_db()
    assert (match.status, match.identical) == ("judging", 1)
    made = list(match.comparisons.select_related("comparison").order_by("comparison"))
    assert len(made) == 3
    for item in made:
        candidates = list(item.comparison.candidates.order_by("index"))
        assert candidates[item.left_index].text.startswith("l")
        assert candidates[1 - item.left_index].text.startswith("r")
        assert candidates[item.left_index].source == "tiny"
        assert (item.comparison.held_out, item.comparison.open_slots) == (True, 1)


def test_sides_are_mixed(manager, project, other, tmp_path):
    """Of 100 comparisons, about half have the left model first: within four standard deviations of 5."""
    match = services.create_match(
        by=manager, project=project, left="tiny", right="other", prompts=[f"p{n}" for n in range(100)]
    )
    finish(match.left_run, [[f"l{n}"] for n in range(100)], tmp_path)
    finish(match.right_run, [[f"r{n}"] for n in range(100)], tmp_path)
    services.advance_matches()
    assert 30 <= match.comparisons.filter(left_index=0).count() <= 70


def test_prompt_that_one_model_could_not_take(match, tmp_path):
    finish(match.left_run, [["l0"], ["l1"], ["l2"]], tmp_path, rows=[0, 1, 2])
    finish(match.right_run, [["r1"], ["r2"], ["r3"]], tmp_path, rows=[1, 2, 3])
    services.advance_matches()
    assert sorted(item.comparison.prompt for item in match.comparisons.all()) == ["p1", "p2"]


def test_failed_generation_fails_the_match(match):
    Run.objects.filter(pk=match.right_run_id).update(status="failed", error="Out of memory.")
    assert services.advance_matches() == 1
    match.refresh_from_db()
    assert match.status == "failed"
    assert match.error == f"Run {match.right_run_id} (other) was failed. Out of memory."


def test_pictures_become_media(manager, tmp_path):
    project = factories.make_project(by=manager, modality="image")
    for name in ("a", "b"):
        factories.make_base(tmp_path / name, name=name, modality="image", by=manager)
    match = services.create_match(by=manager, project=project, left="a", right="b", prompts=["p0"])
    for run, colour in ((match.left_run, "red"), (match.right_run, "blue")):
        folder = tmp_path / f"result-{run.pk}"
        (folder / "media").mkdir(parents=True)
        Image.new("RGB", (8, 8), colour).save(folder / "media" / "0.png")
        row = {"prompt": "p0", "candidates": [{"image": "0.png"}], "meta": {"row": 0, "seeds": [1]}}
        (folder / "generations.jsonl").write_text(json.dumps(row) + "\n")
        stored = storage.put_zip(folder, folder="checkpoints")
        Checkpoint.objects.create(run=run, storage_key=stored.key, sha256=stored.sha256, size=stored.size)
        Run.objects.filter(pk=run.pk).update(status="done")
    services.advance_matches()
    (item,) = match.comparisons.all()
    left = item.comparison.candidates.get(index=item.left_index).image
    with default_storage.open(left.storage_key) as file:
        assert Image.open(io.BytesIO(file.read())).convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_win_rate_by_hand(match, tmp_path):
    """Win, loss, tie, and a pair judged twice: win and both-bad, ¾. The mean of 1, 0, ½ and ¾ is 0.5625."""
    finish(match.left_run, [["l0"], ["l1"], ["l2"], ["l3"]], tmp_path)
    finish(match.right_run, [["r0"], ["r1"], ["r2"], ["r3"]], tmp_path)
    assert services.win_rate(match)["rate"] is None
    services.advance_matches()
    items = list(match.comparisons.order_by("comparison"))
    judge(items[0].comparison, items[0].left_index)
    judge(items[1].comparison, 1 - items[1].left_index)
    judge(items[2].comparison, "tie")
    judge(items[3].comparison, items[3].left_index)
    judge(items[3].comparison, "both_bad")
    found = services.win_rate(match)
    counts = {"wins": 2, "losses": 1, "ties": 1, "both_bad": 1, "identical": 0, "n": 4}
    assert {name: found[name] for name in counts} == counts
    assert found["rate"] == 0.5625
    assert found["low"] < 0.5625 < found["high"]


def test_identical_answers_are_ties(match, tmp_path):
    finish(match.left_run, [["l0"], ["x"], ["x"], ["x"]], tmp_path)
    finish(match.right_run, [["r0"], ["x"], ["x"], ["x"]], tmp_path)
    services.advance_matches()
    match.refresh_from_db()
    judge(match.comparisons.get().comparison, match.comparisons.get().left_index)
    found = services.win_rate(match)
    assert (found["n"], found["identical"], found["rate"]) == (4, 3, (1 + 3 * 0.5) / 4)


def test_undone_judgement_does_not_count(match, tmp_path):
    finish(match.left_run, [["l0"]], tmp_path)
    finish(match.right_run, [["r0"]], tmp_path)
    services.advance_matches()
    judge(match.comparisons.get().comparison, 0)
    Judgement.objects.filter(comparison=match.comparisons.get().comparison).update(undone_at=timezone.now())
    assert services.win_rate(match)["n"] == 0


def test_refused(manager, project, base, other):
    def errors(**values):
        given = {"by": manager, "project": project, "left": "tiny", "right": "other", "prompts": ["p"]}
        with pytest.raises(Invalid) as refused:
            services.create_match(**given | values)
        return refused.value.errors

    assert "with itself" in errors(right="tiny")["right"]
    assert "registered" in errors(right="nothing")["right"]
    assert "no held-out prompts" in errors(prompts=None)["prompts"]
    assert "no held-out prompts" in errors(prompts=[])["prompts"]
    assert list(errors(config={"temperature": -1})) == ["config.temperature"]
    assert not Match.objects.exists()


def test_prompts_held_out_from_the_checkpoint(manager, project, other):
    run = services.create_run(
        by=manager, project=project, method="dpo", base="tiny", config={}, eval_fraction=0.4
    )
    services.freeze_snapshot(snapshot_id=run.snapshot_id)
    Run.objects.filter(pk=run.pk).update(status="done")
    checkpoint = Checkpoint.objects.create(run=run, storage_key="x", sha256="0", size=1)
    run.snapshot.refresh_from_db()
    prompts = services.held_out_prompts(project, ["other", f"checkpoint:{checkpoint.pk}"])
    assert len(prompts) == run.snapshot.counts["eval_groups"]
    assert set(prompts) < {f"Question {number}?" for number in range(10)}


def test_prompts_of_held_out_comparisons(project, base):
    from annotation.services import add_comparisons

    group = {"prompt": "held out", "candidates": [{"text": "a", "source": ""}, {"text": "b", "source": ""}]}
    add_comparisons(project=project, groups=[group, group], held_out=True)
    assert services.held_out_prompts(project, ["tiny", "other"]) == ["held out"]
