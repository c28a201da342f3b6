"""Jobs over HTTP and from their forms: answers written, candidates scored, and answers queued for judging."""

import json
import zipfile

import pytest
from django.urls import reverse

from annotation.errors import Conflict, Invalid
from annotation.models import Comparison, Judgement
from annotation.services import add_comparisons
from annotation.services.media import store_image
from tests.annotation.factories import make_project, make_user
from tests.annotation.files import png
from tests.training import factories
from tests.training.conftest import client_of
from tests.training.factories import ended
from training import services, storage
from training.models import Run
from training.tuning.registry import get_method

pytestmark = pytest.mark.django_db


def frozen_rows(run):
    with storage.local_copy(run.snapshot.storage_key) as path, zipfile.ZipFile(path) as archive:
        return [json.loads(line) for line in archive.read("train.jsonl").splitlines()]


def test_a_generation_with_rewards_over_http(project, base, as_manager):
    """Rules and models choose among several answers; without prompts those of the project are answered."""
    body = {"project": project.pk, "base": "tiny", "config": {"best_of": 4, "samples_per_prompt": 2}}
    reply = as_manager.post("/api/v1/generations/", body, format="json")
    assert reply.status_code == 400
    assert [item["field"] for item in reply.json()["errors"]] == ["reward"]
    rewards = [{"rule": "words", "weight": -1.0}]
    reply = as_manager.post("/api/v1/generations/", body | {"reward": rewards, "seed": 5}, format="json")
    assert reply.status_code == 201, reply.json()
    run = Run.objects.get(pk=reply.json()["id"])
    assert (run.method, run.status, run.reward, run.seed) == ("generate", "queued", rewards, 5)
    assert run.config["best_of"] == 4
    assert [row["prompt"] for row in frozen_rows(run)] == [f"Question {n}?" for n in range(10)]
    few = as_manager.post("/api/v1/generations/", body | {"reward": rewards, "prompts": ["a"]}, format="json")
    assert [row["prompt"] for row in frozen_rows(Run.objects.get(pk=few.json()["id"]))] == ["a"]


@pytest.mark.parametrize("prompt", [None, {}, [], " ", "half \ud800", "nul \x00", 5])
def test_prompts_that_nobody_can_answer(project, base, as_manager, prompt):
    body = json.dumps({"project": project.pk, "base": "tiny", "prompts": [prompt]})
    reply = as_manager.generic("POST", "/api/v1/generations/", body, content_type="application/json")
    assert reply.status_code == 400
    assert not Run.objects.exists()


def test_code_is_no_reward_over_http(project, base, as_manager):
    body = {"project": project.pk, "base": "tiny", "config": {"best_of": 2}}
    body["reward"] = [{"python": "os:system"}]
    reply = as_manager.post("/api/v1/generations/", body, format="json")
    assert reply.status_code == 400


def test_a_scoring_of_the_project_with_rewards(project, as_manager):
    reply = as_manager.post("/api/v1/scorings/", {"project": project.pk}, format="json")
    assert [item["field"] for item in reply.json()["errors"]] == ["base"]
    body = {"project": project.pk, "reward": [{"rule": "words"}], "config": {"select": "pairs"}}
    reply = as_manager.post("/api/v1/scorings/", body, format="json")
    assert reply.status_code == 201, reply.json()
    run = Run.objects.get(pk=reply.json()["id"])
    assert (run.method, run.base, run.base_checkpoint) == ("score", None, None)
    rows = frozen_rows(run)
    assert rows[0]["candidates"] == [{"text": "Good 0.", "source": "a"}, {"text": "Bad 0.", "source": "b"}]
    assert [row["meta"]["comparison"] for row in rows] == list(
        Comparison.objects.order_by("rank").values_list("pk", flat=True)
    )
    assert "judgements" not in rows[0]


def test_rows_over_http_name_no_file_of_the_storage(project, as_manager):
    """A row may hold texts and nothing else: a key in the storage would be copied into the run."""
    body = {"project": project.pk, "reward": [{"rule": "words"}]}
    row = {"prompt": "p", "candidates": [{"text": "a", "storage_key": "exports/secret", "image": "x"}]}
    reply = as_manager.post("/api/v1/scorings/", body | {"groups": [row]}, format="json")
    assert reply.status_code == 400
    row = {"prompt": "p", "candidates": [{"text": "a"}, {"text": "b"}]}
    reply = as_manager.post("/api/v1/scorings/", body | {"groups": [row]}, format="json")
    assert frozen_rows(Run.objects.get(pk=reply.json()["id"])) == [row]


def test_pictures_are_scored_where_they_are(manager, as_manager):
    project = make_project(by=manager, modality="image")
    pictures = [{"image": store_image(png(colour=colour))} for colour in ("red", "blue")]
    add_comparisons(project=project, groups=[{"prompt": "p", "candidates": pictures}])
    body = {"project": project.pk, "reward": [{"rule": "brightness"}]}
    row = {"prompt": "p", "candidates": [{"text": "a"}]}
    assert as_manager.post("/api/v1/scorings/", body | {"groups": [row]}, format="json").status_code == 400
    run = Run.objects.get(pk=as_manager.post("/api/v1/scorings/", body, format="json").json()["id"])
    assert run.method == "image_score"
    with storage.local_copy(run.snapshot.storage_key) as path, zipfile.ZipFile(path) as archive:
        assert len([name for name in archive.namelist() if name.startswith("media/")]) == 2


def test_answers_are_queued_once(project, base, manager, as_manager):
    """Two different answers make a comparison with its source; equal ones have nothing to compare."""
    run = services.create_generation(by=manager, project=project, base="tiny", prompts=["a", "b", "c"])
    address = f"/api/v1/runs/{run.pk}/comparisons/"
    assert as_manager.post(address).status_code == 409
    rows = [
        {"prompt": "a", "candidates": [{"text": "x"}, {"text": "y"}, {"text": "x"}], "meta": {"row": 0}},
        {"prompt": "b", "candidates": [{"text": "x"}, {"text": "x"}], "meta": {"row": 1}},
        {"prompt": "c", "candidates": [{"text": "x"}], "meta": {"row": 2}},
    ]
    ended(run, rows)
    reply = as_manager.post(address)
    assert (reply.status_code, reply.json()) == (201, {"added": 1, "alike": 2})
    made = Comparison.objects.get(meta__generation=run.pk)
    assert made.prompt == "a"
    assert list(made.candidates.order_by("index").values_list("text", "source")) == [
        ("x", "tiny"), ("y", "tiny"),
    ]  # fmt: skip
    assert as_manager.post(address).status_code == 409
    assert Comparison.objects.filter(meta__generation=run.pk).count() == 1


def test_drawn_pictures_are_queued(manager, tmp_path):
    project = make_project(by=manager, modality="image")
    factories.make_base(tmp_path / "unet", name="unet", modality="image", by=manager)
    run = services.create_generation(by=manager, project=project, base="unet", prompts=["a dot"])
    row = {"prompt": "a dot", "candidates": [{"image": "0.png"}, {"image": "1.png"}], "meta": {"row": 0}}
    ended(run, [row], [("0.png", png()), ("1.png", png(colour="blue"))])
    assert services.add_answers(run=run) == {"added": 1, "alike": 0}
    assert Comparison.objects.get().candidates.exclude(image=None).count() == 2
    with pytest.raises(Conflict):
        services.add_answers(run=run)


def test_a_picture_is_improved(manager, tmp_path):
    """From its comparison: the same prompt, a search under a reward, and the new pictures beside the old."""
    project = make_project(by=manager, modality="image")
    factories.make_base(tmp_path / "unet", name="unet", modality="image", by=manager)
    old = [{"image": store_image(png(colour=colour)), "source": "before"} for colour in ("red", "blue")]
    add_comparisons(project=project, groups=[{"prompt": "a dot", "candidates": old}])
    comparison = Comparison.objects.get()
    client = client_of(manager)
    shown = client.get(reverse("annotation:comparison", args=[project.pk, comparison.pk])).content.decode()
    page = f"{reverse('training:job_new', args=[project.pk, 'generate'])}?improve={comparison.pk}"
    assert page in shown
    form = client.get(page)
    assert form.context["form"].initial["config_search"] == "best_of_n"
    assert "a dot" in form.content.decode()
    assert 'name="prompts"' not in form.content.decode()
    changed = {"search": "best_of_n", "samples_per_prompt": "2", "search_cuts": "0.5"}
    fields = {"base": "unet", "seed": "0", **filled("image_generate", **changed)}
    fields |= {"config_search_ranks": "", "config_search_greedy": ""}
    refused = client.post(page, fields)
    assert (refused.status_code, refused.context["form"].errors.keys()) == (400, {"reward_0_source"})
    fields |= {"reward_0_source": "rule:brightness", "reward_0_weight": "1"}
    assert client.post(page, fields).status_code == 302
    run = Run.objects.get()
    assert frozen_rows(run) == [{"prompt": "a dot", "meta": {"row": 0, "improves": comparison.pk}}]
    assert run.config["search_cuts"] == [0.5]
    row = {"prompt": "a dot", "candidates": [{"image": "0.png"}, {"image": "1.png"}]}
    row["meta"] = {"row": 0, "improves": comparison.pk}
    ended(run, [row], [("0.png", png(colour="green")), ("1.png", png(colour="red"))])
    assert services.add_answers(run=run) == {"added": 1, "alike": 0}
    new = Comparison.objects.get(meta__generation=run.pk)
    # The second new picture is the first old one again.
    assert [one.source for one in new.candidates.order_by("index")] == ["before", "before", "unet"]
    for wrong in ("x", "999999"):
        address = reverse("training:job_new", args=[project.pk, "generate"])
        assert client.get(f"{address}?improve={wrong}").status_code == 404


def test_scores_become_suggestions(project, base, as_manager):
    """The best candidate of each comparison; a tie where they are equal; none where one has no score."""
    body = {"project": project.pk, "reward": [{"rule": "words"}]}
    run = Run.objects.get(pk=as_manager.post("/api/v1/scorings/", body, format="json").json()["id"])
    address = f"/api/v1/runs/{run.pk}/suggestions/"
    assert as_manager.post(address).status_code == 409
    scores = [[1.0, 2.0], [3.0, 3.0], [None, 1.0], *[[2.0, 1.0]] * 7]
    ended(run, [{"scores": row} for row in scores], name="scores.jsonl")
    reply = as_manager.post(address)
    assert (reply.status_code, reply.json()) == (201, {"suggested": 9})
    judged = Judgement.objects.standing().filter(kind="judge").order_by("comparison__rank")
    assert [one.choice for one in judged] == [1, "tie", *[0] * 7]
    assert {one.annotator.username for one in judged} == {"import:words"}
    as_manager.post(address)
    assert Judgement.objects.standing().filter(kind="judge").count() == 9  # the later ones replaced them


def filled(method, **changed):
    """The job's keys as its form sends them."""
    given = get_method(method).config().model_dump() | changed
    return {f"config_{name}": value for name, value in given.items() if value is not None}


def test_the_forms(project, base, as_mona):
    page = reverse("training:job_new", args=[project.pk, "generate"])
    shown = as_mona.get(page).content.decode()
    assert 'name="prompts"' in shown
    assert ">\nnull</textarea>" not in shown
    fields = {"base": "tiny", "prompts": "one\n\n two ", "seed": "3", **filled("generate", best_of="3")}
    refused = as_mona.post(page, fields)
    assert refused.status_code == 400
    assert refused.context["form"].errors.keys() == {"reward_0_source"}
    reply = as_mona.post(page, fields | {"reward_0_source": "rule:words", "reward_0_weight": "1"})
    run = Run.objects.get(method="generate")
    assert reply["Location"] == run.get_absolute_url()
    assert [row["prompt"] for row in frozen_rows(run)] == ["one", "two"]
    assert run.reward == [{"rule": "words", "weight": 1.0}]
    ended(run, [{"prompt": "one", "candidates": [{"text": "x"}, {"text": "y"}], "meta": {"row": 0}}])
    assert "Queue the answers" in as_mona.get(run.get_absolute_url()).content.decode()
    said = as_mona.post(reverse("training:run_comparisons", args=[run.pk]), follow=True).content.decode()
    assert "1 comparison is queued." in said
    page = reverse("training:job_new", args=[project.pk, "score"])
    fields = {"base": "", "seed": "0", **filled("score")}
    fields |= {"reward_0_source": "rule:words", "reward_0_weight": "1"}
    assert as_mona.post(page, fields).status_code == 302
    assert Run.objects.get(method="score").reward == [{"rule": "words", "weight": 1.0}]
    assert as_mona.get(reverse("training:job_new", args=[project.pk, "cook"])).status_code == 404


def test_a_strangers_model_is_not_used(project, base, run):
    done = factories.finish(run)
    stranger = make_user("manager")
    theirs = factories.judged_project(by=stranger)
    with pytest.raises(Invalid, match="no model"):
        services.create_generation(by=stranger, project=theirs, base=f"checkpoint:{done.pk}")
    page = reverse("training:run_comparisons", args=[run.pk])
    assert client_of(stranger).post(page).status_code == 404
