"""The training pages through HTTP: who may see them, what they say, and how many queries they take."""

import json
import re
import shlex
from datetime import timedelta

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.test import Client
from django.urls import reverse

from annotation import services as annotation_services
from tests.annotation.factories import make_project, make_user
from tests.training import factories
from tests.training.conftest import client_of
from training import browsing, services
from training.models import Run
from training.services import queue
from training.tuning.registry import METHODS, get_method

TRAINED = [one.name for one in METHODS if one.modality == "text" and one.purpose == "train"]


@pytest.fixture
def pages(project, base, done) -> list[str]:
    """One address of every page."""
    draft = factories.queued_run(project, base)
    Run.objects.filter(pk=draft.pk).update(status=Run.Status.DRAFT)
    match = factories.make_match(project, done, base)
    of_project = ["overview", "runs", "run_new", "compare", "models", "matches", "schedules"]
    return [
        *(reverse(f"training:{name}", args=[project.pk]) for name in of_project),
        reverse("training:run", args=[done.run_id]),
        reverse("training:run", args=[draft.pk]),
        reverse("training:run_progress", args=[done.run_id]),
        reverse("training:checkpoint_download", args=[done.pk]),
        reverse("training:match", args=[match.pk]),
    ]


def test_who_may_see_what(pages, project, manager):
    annotator, outsider = make_user(), make_user("manager")
    annotation_services.add_member(project=project, username=annotator.username, role="annotator", by=manager)
    for page in pages:
        assert Client().get(page).status_code == 302, page
        assert client_of(annotator).get(page).status_code == 403, page
        assert client_of(outsider).get(page).status_code == 404, page
        assert client_of(manager).get(page).status_code == 200, page


def test_changes_are_for_managers_and_by_post(project, base, manager):
    run = factories.queued_run(project, base)
    annotator = make_user()
    annotation_services.add_member(project=project, username=annotator.username, role="annotator", by=manager)
    address = reverse("training:run_action", args=[run.pk, "cancel"])
    assert client_of(annotator).post(address).status_code == 403
    assert client_of(make_user("manager")).post(address).status_code == 404
    assert client_of(manager).get(address).status_code == 405
    assert Client(enforce_csrf_checks=True).post(address).status_code == 403
    run.refresh_from_db()
    assert run.status == Run.Status.QUEUED


def test_pages_obey_the_content_security_policy(pages, as_mona):
    """No inline script, style or handler."""
    for page in pages:
        response = as_mona.get(page)
        if "html" not in response["Content-Type"]:
            continue
        text = response.content.decode()
        assert not re.search(r"\sstyle=|<style|\son\w+=", text), page
        for script in re.findall(r"<script[^>]*>", text):
            assert "src=" in script or "application/json" in script, (page, script)


# The list


def test_runs_takes_the_same_queries_for_many(project, base, as_mona, django_assert_num_queries):
    for _ in range(2):
        factories.finish(factories.queued_run(project, base))
    address = reverse("training:runs", args=[project.pk])
    with django_assert_num_queries(6):  # session, user, project, runs, counts, navigation
        first = as_mona.get(address)
    for _ in range(5):
        factories.finish(factories.queued_run(project, base))
    with django_assert_num_queries(6):
        many = as_mona.get(address)
    assert many.content.count(b"/runs/") > first.content.count(b"/runs/")
    assert b"10 judgements by 1 person" in many.content


def test_empty_project(manager, as_mona):
    project = make_project(by=manager)
    assert b"No run yet" in as_mona.get(reverse("training:runs", args=[project.pk])).content
    page = as_mona.get(reverse("training:run_new", args=[project.pk])).content.decode()
    assert "Needs choices between candidates or rankings; this project has none yet." in page
    assert "No model is registered for texts yet." in page
    assert b"There are not two runs" in as_mona.get(reverse("training:compare", args=[project.pk])).content


# A new run


def form_values(client: Client, address: str) -> dict[str, str]:
    """What a browser would send if nobody touched the form."""
    form = client.get(address).context["form"]
    found = {}
    for bound in form:
        value = bound.value()
        if value is None or value is False or value in ("", []):
            continue
        found[bound.html_name] = ", ".join(value) if isinstance(value, list) else str(value)
    return found


def test_look_at_the_data_first(project, base, as_mona):
    address = reverse("training:run_new", args=[project.pk]) + "?method=dpo"
    values = form_values(as_mona, address) | {"base": "tiny", "config_beta": "0.25", "min_agreement": "0.6"}
    response = as_mona.post(address, values | {"look": ""})
    assert response.status_code == 302, response.context["form"].errors
    run = Run.objects.get()
    assert response.url == run.get_absolute_url()
    assert not run.start_when_ready
    assert (run.method, run.config["beta"], run.base.name) == ("dpo", 0.25, "tiny")
    assert run.snapshot.filters == {"min_agreement": 0.6}
    assert run.snapshot.eval_fraction == 0.1


@pytest.mark.parametrize("method", TRAINED)
def test_start_at_once(project, base, as_mona, monkeypatch, method):
    """Every method's form can be sent as it comes, but for its base and what it is rewarded for."""
    monkeypatch.setattr(services.creating, "check_feedback", lambda *given, **options: None)
    address = reverse("training:run_new", args=[project.pk]) + f"?method={method}"
    values = form_values(as_mona, address) | {"base": "tiny", "start": "1", "reward_0_source": "rule:words"}
    response = as_mona.post(address, values)
    assert response.status_code == 302, response.context["form"].errors
    assert Run.objects.get().start_when_ready
    assert Run.objects.get().method == method


def test_wrong_values_are_shown_beside_their_fields(project, base, as_mona):
    address = reverse("training:run_new", args=[project.pk]) + "?method=dpo"
    values = form_values(as_mona, address)
    response = as_mona.post(address, values | {"base": "tiny", "config_beta": "-1", "config_lora_r": "0"})
    assert response.status_code == 400
    form = response.context["form"]
    assert form.errors["config_beta"] == ["Input should be greater than 0"]
    assert form.errors["config_lora_r"] == ["Input should be greater than or equal to 1"]
    assert form.more_is_wrong
    assert not Run.objects.exists()
    response = as_mona.post(address, values | {"base": "other"})
    assert "base" in response.context["form"].errors


def test_method_of_the_other_material(project, base, as_mona):
    address = reverse("training:run_new", args=[project.pk])
    assert as_mona.get(address + "?method=diffusion_dpo").status_code == 404
    assert as_mona.get(address).context["method"].name == "dpo"


def test_one_more_like_it(project, base, as_mona, done):
    Run.objects.filter(pk=done.run_id).update(
        config={**get_method("dpo").config().model_dump(), "beta": 0.7}, seed=9
    )
    address = reverse("training:run_new", args=[project.pk]) + f"?like={done.run_id}"
    values = form_values(as_mona, address)
    assert (values["config_beta"], values["seed"], values["base"]) == ("0.7", "9", "tiny")


def test_bases_that_fit(project, base, done):
    reward = factories.finish(factories.queued_run(project, base, method="reward_model"))
    names = [name for _, models in browsing.base_choices(project, scorers=False) for name, _ in models]
    assert names == ["tiny", f"checkpoint:{done.pk}"]
    names = [name for _, models in browsing.base_choices(project, scorers=True) for name, _ in models]
    assert f"checkpoint:{reward.pk}" in names


# One run


PREVIEW = {
    "groups": 9,
    "pairs": 8,
    "total_tokens": 1234,
    "token_lengths": {"min": 5, "median": 9, "p95": 14, "max": 16},
    "histogram": [[5, 11, 6], [11, 17, 2]],
    "dropped": {"a tie": 1},
    "rows": [
        {
            "prompt": "Kept?",
            "kept": True,
            "chosen": "Yes.",
            "rejected": "No.",
            "pairs": [{}],
            "tokens": {"total": 9},
        },
        {"prompt": "Left out?", "kept": False, "why": "a tie", "candidates": [], "tokens": None},
    ],
}


@pytest.mark.parametrize(
    ("status", "sentence", "buttons"),
    [
        ("preparing", "Its data is being frozen", ["cancel"]),
        ("draft", "as the trainer will see it", ["start", "cancel"]),
        ("queued", "Waits for a worker with a cpu device", ["cancel"]),
        ("running", "Step 3 of 10, about 14 s left", ["cancel"]),
        ("failed", "There is no tokenizer.", ["retry"]),
        ("cancelled", "Stopped at step 3.", ["retry"]),
    ],
)
def test_run_in_every_state(project, base, as_mona, status, sentence, buttons):
    run = factories.queued_run(project, base)
    Run.objects.filter(pk=run.pk).update(status=status, step=3, total_steps=10, preview=PREVIEW)
    if status == "failed":
        Run.objects.filter(pk=run.pk).update(error="There is no tokenizer.")
    factories.log_metrics(run, steps=3)
    text = as_mona.get(run.get_absolute_url()).content.decode()
    assert sentence in text
    for action in ("start", "cancel", "retry"):
        assert (reverse("training:run_action", args=[run.pk, action]) in text) == (action in buttons)
    assert "a tie" in text
    assert "1,234" in text


def test_estimate_of_a_draft(project, base, as_mona, done):
    """18 groups twice in batches of 8 are 5 steps; the earlier run took 30 s for as many."""
    start = queue.database_now()
    Run.objects.filter(pk=done.run_id).update(started_at=start, finished_at=start + timedelta(seconds=30))
    draft = factories.queued_run(project, base)
    config = get_method("dpo").config(epochs=2).model_dump(mode="json")
    Run.objects.filter(pk=draft.pk).update(status="draft", config=config, preview={**PREVIEW, "groups": 18})
    text = as_mona.get(draft.get_absolute_url()).content.decode()
    assert "It would take 5 steps, about 30 s at the pace of" in text
    Run.objects.filter(pk=draft.pk).update(config={**config, "max_steps": 7, "batch_size": 4})
    text = as_mona.get(draft.get_absolute_url()).content.decode()
    assert "It would take 7 steps." in text


def test_run_that_stopped_early(done, as_mona):
    done.metadata["stopped_early"] = {"at": 1200, "kept": 900, "metric": "eval/loss"}
    done.save()
    text = as_mona.get(reverse("training:run", args=[done.run_id])).content.decode()
    assert "Stopped early at step 1,200; kept the weights of step 900, the best by eval/loss." in text


def test_run_takes_few_queries(done, as_mona, django_assert_num_queries):
    Run.objects.filter(pk=done.run_id).update(preview=PREVIEW)
    with django_assert_num_queries(7):  # session, user, run, metrics, uploads, other runs, navigation
        page = as_mona.get(reverse("training:run", args=[done.run_id])).content.decode()
    assert reverse("training:checkpoint_download", args=[done.pk]) in page
    assert "Compare blind with base" in page
    assert "74 %" in page


def test_samples_side_by_side(project, base, as_mona):
    run = factories.queued_run(project, base)
    rows = [
        {"step": 0, "when": "before", "prompt": "Why?", "text": "Because."},
        {"step": 5, "when": "after", "prompt": "Why?", "text": "<b>Since</b> **then**."},
        {"step": 0, "when": "before", "prompt": [{"role": "user", "content": "How?"}], "text": "So."},
    ]
    Run.objects.filter(pk=run.pk).update(samples=rows)
    samples = as_mona.get(run.get_absolute_url()).context["samples"]
    assert [(one.before["text"], one.after and one.after["step"]) for one in samples] == [
        ("Because.", 5),
        ("So.", None),
    ]
    text = as_mona.get(run.get_absolute_url()).content.decode()
    assert "<strong>then</strong>" in text
    assert "<b>Since</b>" not in text


def test_sample_pictures(project, base, as_mona):
    run = factories.queued_run(project, base)
    default_storage.save("samples/abc.png", ContentFile(b"\x89PNG"))
    Run.objects.filter(pk=run.pk).update(samples=[{"when": "before", "prompt": "x", "image": "abc.png"}])
    response = as_mona.get(reverse("training:run_sample", args=[run.pk, "abc.png"]))
    assert (response["Content-Type"], b"".join(response.streaming_content)) == ("image/png", b"\x89PNG")
    assert as_mona.get(reverse("training:run_sample", args=[run.pk, "other.png"])).status_code == 404


def test_progress(project, base, as_mona, django_assert_num_queries):
    run = factories.queued_run(project, base)
    Run.objects.filter(pk=run.pk).update(status="running", step=5, total_steps=10, log_tail="a\nb", attempt=1)
    factories.log_metrics(run)
    address = reverse("training:run_progress", args=[run.pk])
    with django_assert_num_queries(4):  # session, user, run, metrics
        response = as_mona.get(address)
    body = response.json()
    assert (body["status"], body["step"], body["total_steps"], body["eta_seconds"]) == (
        "running",
        5,
        10,
        10.0,
    )
    assert [row["step"] for row in body["metrics"]] == [1, 2, 3, 4, 5, 5]
    assert body["log"] == "a\nb"
    same = as_mona.get(address, headers={"If-None-Match": response["ETag"]})
    assert (same.status_code, same.content) == (304, b"")
    later = as_mona.get(address + "?after=4").json()
    assert [row["step"] for row in later["metrics"]] == [5, 5]
    assert as_mona.get(address + "?after=x").status_code == 200
    Run.objects.filter(pk=run.pk).update(step=6)
    assert as_mona.get(address, headers={"If-None-Match": response["ETag"]}).status_code == 200


def test_time_left():
    """Two seconds a step; a resumed attempt counts from its own start; one row says nothing."""
    rows = [{"step": step, "time": 2.0 * step} for step in range(1, 6)]
    assert browsing.eta_seconds(rows, total=10) == 10
    resumed = [*rows, {"step": 6, "time": 1.0}, {"step": 8, "time": 2.0}]
    assert browsing.eta_seconds(resumed, total=10) == 1
    assert browsing.eta_seconds(rows[:1], total=10) is None
    assert browsing.eta_seconds(rows, total=None) is None
    assert browsing.eta_seconds([{"step": 1}, {"step": 2}], total=10) is None


def test_actions(project, base, as_mona):
    run = factories.queued_run(project, base)
    as_mona.post(reverse("training:run_action", args=[run.pk, "cancel"]))
    run.refresh_from_db()
    assert run.status == Run.Status.CANCELLED
    response = as_mona.post(reverse("training:run_action", args=[run.pk, "cancel"]), follow=True)
    assert "has ended; there is nothing to cancel" in response.content.decode()
    as_mona.post(reverse("training:run_action", args=[run.pk, "retry"]))
    run.refresh_from_db()
    assert run.status == Run.Status.QUEUED


def test_command_starts_the_same_run(project, base):
    run = services.create_run(
        by=project.created_by,
        project=project,
        method="dpo",
        base="tiny",
        config={"beta": 0.3, "lora": {"r": 4}, "max_length": None},
        filters={"min_agreement": 0.5},
        eval_fraction=0.2,
        seed=7,
    )
    words = shlex.split(browsing.command_of(run))
    assert words[:9] == [
        "python",
        "manage.py",
        "train",
        "--project",
        str(project.pk),
        "--method",
        "dpo",
        "--base",
        "tiny",
    ]
    settings = {words[index + 1] for index, word in enumerate(words) if word == "--set"}
    assert settings == {"beta=0.3", "lora.r=4", "max_length=null"}
    filters = words[words.index("--filters") + 1]
    assert json.loads(filters) == {"min_agreement": 0.5}
    assert words[-5:] == ["--eval-fraction", "0.2", "--seed", "7", "--follow"]


def test_rewards_in_rows_and_as_a_list(project, base, as_mona):
    """Rows and list give what the API takes; a refused entry is shown beside its row; a copy has the same."""
    address = reverse("training:run_new", args=[project.pk]) + "?method=grpo"
    values = form_values(as_mona, address) | {"base": "tiny", "start": "1"}
    response = as_mona.post(address, values)
    assert response.context["form"].errors.keys() == {"reward_0_source"}
    rows = {"reward_0_source": "rule:words", "reward_1_source": "rule:pattern", "reward_1_weight": "-2"}
    response = as_mona.post(address, values | rows | {"reward_1_argument": "["})
    assert "is no regular expression" in response.context["form"].errors["reward_1_argument"][0]
    response = as_mona.post(address, values | rows | {"reward_1_argument": "sorry|apolog"})
    assert response.status_code == 302, response.context["form"].errors
    run = Run.objects.get()
    assert run.reward == [
        {"rule": "words", "weight": 1.0},
        {"rule": "pattern:sorry|apolog", "weight": -2.0},
    ]
    copied = form_values(as_mona, f"{address}&like={run.pk}")
    assert (copied["reward_1_source"], copied["reward_1_argument"]) == ("rule:pattern", "sorry|apolog")
    listed = '[{"rule": "words", "transform": [{"name": "sigmoid"}]}]'
    as_mona.post(address, values | {"reward_0_source": "rule:json", "reward_list": listed})
    newest = Run.objects.latest("pk")
    assert newest.reward == [{"rule": "words", "transform": [{"name": "sigmoid"}]}]
    assert "sigmoid" in form_values(as_mona, f"{address}&like={newest.pk}")["reward_list"]
    assert "reward_0_source" not in form_values(as_mona, address.replace("grpo", "dpo"))
