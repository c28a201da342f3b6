"""The training API over HTTP: the contract, problem details, and who may do what."""

import json

import pytest
from django.core.files.storage import default_storage

from annotation import services as annotation_services
from tests.annotation.conftest import api_client
from tests.annotation.factories import make_user
from tests.training import factories
from training import services, storage
from training.models import BaseModel, Checkpoint, Metric, Run

pytestmark = pytest.mark.django_db


@pytest.fixture
def as_annotator(project):
    user = make_user(username="anna")
    annotation_services.add_member(project=project, username="anna", role="annotator", by=project.created_by)
    return api_client(user)


@pytest.fixture
def as_outsider(db):
    return api_client(make_user("manager", username="otto"))


@pytest.fixture
def checkpoint(run, tmp_path):
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "README.md").write_text("# card")
    stored = storage.put_zip(folder, folder="checkpoints")
    Run.objects.filter(pk=run.pk).update(status="done")
    return Checkpoint.objects.create(
        run=run, storage_key=stored.key, sha256=stored.sha256, size=stored.size, metadata={"method": "dpo"}
    )


@pytest.fixture
def asked(project, base):
    return {"project": project.pk, "method": "dpo", "base": "tiny", "config": {"beta": 0.2}}


def fields_of(reply) -> list[str]:
    assert reply.headers["Content-Type"] == "application/problem+json"
    return [error["field"] for error in reply.json()["errors"]]


def test_post_run(as_manager, asked):
    reply = as_manager.post(
        "/api/v1/runs/",
        asked | {"reward": [], "filters": {"annotators": ["import0"]}, "eval_fraction": 0.2, "seed": 3},
    )
    assert reply.status_code == 201
    body = reply.json()
    assert (body["status"], body["base"], body["config"]["beta"], body["seed"]) == (
        "preparing",
        "tiny",
        0.2,
        3,
    )
    assert (body["filters"], body["eval_fraction"]) == ({"annotators": ["import0"]}, 0.2)
    assert (body["checkpoint"], body["snapshot"]) == (None, None)
    assert as_manager.get(f"/api/v1/runs/{body['id']}/").json() == body
    assert [row["id"] for row in as_manager.get("/api/v1/runs/").json()] == [body["id"]]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"method": "dopo"}, "method"),
        ({"base": "/etc"}, "base"),
        ({"config": {"beta": "much"}}, "config.beta"),
        ({"config": {"nonsense": 1}}, "config.nonsense"),
        ({"config": 3}, "config"),
        ({"filters": {"nonsense": 1}}, "filters.nonsense"),
        ({"eval_fraction": 1.5}, "eval_fraction"),
        ({"seed": -1}, "seed"),
        ({"nonsense": 1}, "nonsense"),
        ({"project": 999}, "project"),
        ({"reward": [{"python": "os:system"}]}, "reward.0.python"),
        ({"method": "simpo", "reward": [{"model": "tiny"}]}, "reward"),
    ],
)
def test_post_bad_run(as_manager, asked, changes, field):
    reply = as_manager.post("/api/v1/runs/", asked | changes)
    assert reply.status_code == 400
    assert fields_of(reply) == [field]
    assert not Run.objects.exists()


def test_missing_keys(as_manager):
    reply = as_manager.post("/api/v1/runs/", {})
    assert (reply.status_code, sorted(fields_of(reply))) == (400, ["base", "method", "project"])


def test_metrics(as_manager, run, django_assert_max_num_queries):
    Metric.objects.bulk_create(Metric(run=run, step=step, values={"loss": 1 / step}) for step in (1, 2, 3))
    path = f"/api/v1/runs/{run.pk}/metrics/"
    with django_assert_max_num_queries(6):
        reply = as_manager.get(path)
    assert reply.json()["metrics"] == [{"step": step, "loss": 1 / step} for step in (1, 2, 3)]
    assert as_manager.get(path, {"after": 2}).json()["metrics"] == [{"step": 3, "loss": 1 / 3}]
    again = as_manager.get(path, headers={"If-None-Match": reply.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    Metric.objects.create(run=run, step=4, values={"loss": 0})
    assert as_manager.get(path, headers={"If-None-Match": reply.headers["ETag"]}).status_code == 200
    assert fields_of(as_manager.get(path, {"after": "x"})) == ["after"]


def test_cancel(as_manager, run):
    path = f"/api/v1/runs/{run.pk}/cancel/"
    reply = as_manager.post(path)
    assert (reply.status_code, reply.json()["status"]) == (202, "cancelled")
    assert as_manager.post(path).status_code == 409
    assert as_manager.post(f"/api/v1/runs/{run.pk}/retry/").json()["status"] == "queued"
    assert as_manager.post(f"/api/v1/runs/{run.pk}/start/").status_code == 409


def test_download(as_manager, checkpoint):
    reply = as_manager.get(f"/api/v1/checkpoints/{checkpoint.pk}/download/")
    assert reply.headers["Content-Type"] == "application/zip"
    assert reply.headers["Content-Disposition"] == f'attachment; filename="dpo-run-{checkpoint.run_id}.zip"'
    with default_storage.open(checkpoint.storage_key) as file:
        assert b"".join(reply.streaming_content) == file.read()
    (row,) = as_manager.get("/api/v1/checkpoints/").json()
    assert (row["name"], row["metadata"]) == (f"checkpoint:{checkpoint.pk}", {"method": "dpo"})


def test_models(as_manager, base):
    body = {"name": "hub", "modality": "image", "location": "org/name"}
    assert as_manager.post("/api/v1/models/", body).status_code == 201
    assert [row["name"] for row in as_manager.get("/api/v1/models/").json()] == ["hub", "tiny"]
    assert fields_of(as_manager.post("/api/v1/models/", body)) == ["name"]
    assert fields_of(as_manager.post("/api/v1/models/", body | {"modality": "sound"})) == ["modality"]


def test_matches(as_manager, project, base, tmp_path):
    factories.make_base(tmp_path / "other", name="other", by=project.created_by)
    body = {"project": project.pk, "left": "tiny", "right": "other", "prompts": ["p"]}
    reply = as_manager.post("/api/v1/matches/", body)
    assert reply.status_code == 201
    made = as_manager.get(f"/api/v1/matches/{reply.json()['id']}/").json()
    assert (made["left"], made["right"], made["win_rate"]["n"]) == ("tiny", "other", 0)
    assert as_manager.get("/api/v1/matches/", {"project": project.pk}).json() == [made]
    assert fields_of(as_manager.post("/api/v1/matches/", body | {"right": "tiny"})) == ["right"]


def test_schedules(as_manager, asked, project):
    plan = [{"method": "dpo", "base": "tiny"}]
    body = {"project": project.pk, "name": "rounds", "plan": plan, "every_judgements": 200}
    reply = as_manager.post("/api/v1/schedules/", body)
    assert reply.status_code == 201
    path = f"/api/v1/schedules/{reply.json()['id']}/"
    assert as_manager.patch(path, {"enabled": False}).json()["enabled"] is False
    assert [row["name"] for row in as_manager.get("/api/v1/schedules/").json()] == ["rounds"]
    assert as_manager.delete(path).status_code == 204
    assert as_manager.get(path).status_code == 404
    assert fields_of(as_manager.post("/api/v1/schedules/", body | {"plan": [{"method": "x"}]})) == [
        "plan.0.method"
    ]


def test_who_may(as_manager, as_annotator, as_outsider, checkpoint, project, asked, tmp_path, client):
    """Outsiders learn nothing (404), annotators may not (403), strangers must sign in (401)."""
    factories.make_base(tmp_path / "other", name="other", by=project.created_by)
    match = services.create_match(
        by=project.created_by, project=project, left="tiny", right="other", prompts=["p"]
    )
    plan = [{"method": "dpo", "base": "tiny"}]
    schedule = services.create_schedule(
        by=project.created_by, project=project, name="s", plan=plan, every_judgements=9
    )
    calls = [
        ("get", f"runs/{checkpoint.run_id}/"),
        ("get", f"runs/{checkpoint.run_id}/metrics/"),
        ("post", f"runs/{checkpoint.run_id}/cancel/"),
        ("post", f"runs/{checkpoint.run_id}/start/"),
        ("post", f"runs/{checkpoint.run_id}/retry/"),
        ("get", f"checkpoints/{checkpoint.pk}/download/"),
        ("get", f"matches/{match.pk}/"),
        ("get", f"schedules/{schedule.pk}/"),
        ("patch", f"schedules/{schedule.pk}/"),
        ("delete", f"schedules/{schedule.pk}/"),
    ]
    for verb, path in calls:
        replies = [getattr(user, verb)(f"/api/v1/{path}") for user in (as_annotator, as_outsider, client)]
        assert [reply.status_code for reply in replies] == [403, 404, 401], path
    for path in ("runs/", "matches/", "schedules/", "checkpoints/"):
        assert as_manager.get(f"/api/v1/{path}").json() != []
        assert as_annotator.get(f"/api/v1/{path}").json() == []
        assert as_outsider.get(f"/api/v1/{path}").json() == []
        assert client.get(f"/api/v1/{path}").status_code == 401
    posts = {
        "runs/": asked,
        "matches/": {"project": project.pk, "left": "tiny", "right": "other", "prompts": ["p"]},
        "schedules/": {"project": project.pk, "name": "n", "plan": plan, "every_judgements": 1},
    }
    for path, body in posts.items():
        assert as_annotator.post(f"/api/v1/{path}", body).status_code == 403
        assert fields_of(as_outsider.post(f"/api/v1/{path}", body)) == ["project"]
        assert client.post(f"/api/v1/{path}", body, content_type="application/json").status_code == 401
    assert (as_annotator.get("/api/v1/models/").status_code, client.get("/api/v1/models/").status_code) == (
        403,
        401,
    )
    assert as_annotator.post("/api/v1/models/", {}).status_code == 403
    assert BaseModel.objects.count() == 2


def test_lists_take_few_queries(as_manager, project, base, django_assert_max_num_queries):
    for _ in range(5):
        factories.queued_run(project, base)
    with django_assert_max_num_queries(4):  # the user, the runs
        assert len(as_manager.get("/api/v1/runs/").json()) == 5


def test_metrics_are_plain_json(as_manager, run):
    Metric.objects.create(run=run, step=1, values={"loss": None, "nonfinite": ["loss"]})
    reply = as_manager.get(f"/api/v1/runs/{run.pk}/metrics/")
    assert json.loads(reply.content)["metrics"] == [{"step": 1, "loss": None, "nonfinite": ["loss"]}]
