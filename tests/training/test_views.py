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
from annotation.models import Comparison, Judgement
from tests.annotation.factories import make_project, make_user, text_groups
from tests.training import factories
from training import browsing, services
from training.models import Checkpoint, Match, MatchComparison, Metric, Run, Schedule
from training.services import queue
from training.tuning.registry import get_method


def client_of(user) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def as_mona(manager) -> Client:
    return client_of(manager)


def log_metrics(run: Run, *, steps: int = 5, pace: float = 2.0) -> None:
    for step in range(1, steps + 1):
        values = {"time": pace * step, "loss": 1 / step, "rewards/accuracy": 0.5 + step / 100}
        Metric.objects.create(run=run, step=step, values=values)
    Metric.objects.create(run=run, step=steps, kind="eval", values={"eval/loss": 0.4})


def finish(run: Run, **metrics: float) -> Checkpoint:
    now = queue.database_now()
    changes = {"status": Run.Status.DONE, "step": 5, "total_steps": 5, "started_at": now, "finished_at": now}
    Run.objects.filter(pk=run.pk).update(
        **changes, config=get_method(run.method).config().model_dump(mode="json")
    )
    key = default_storage.save("checkpoints/x.zip", ContentFile(b"zip"))
    return Checkpoint.objects.create(
        run=run, storage_key=key, sha256="ab" * 32, size=3, metadata={"metrics": metrics}
    )


@pytest.fixture
def done(project, base) -> Checkpoint:
    run = factories.queued_run(project, base)
    log_metrics(run)
    return finish(run, **{"eval/rewards/accuracy": 0.74})


def make_match(project, done: Checkpoint, base, *, judged: int = 4) -> Match:
    """The left model won all but one of the judged comparisons."""
    runs = [
        factories.queued_run(project, base, method="generate"),
        factories.queued_run(project, base, method="generate"),
    ]
    Run.objects.filter(pk=runs[0].pk).update(base=None, base_checkpoint=done)
    match = Match.objects.create(
        project=project,
        left_run=Run.objects.get(pk=runs[0].pk),
        right_run=runs[1],
        prompts=6,
        status="judging",
        created_by=project.created_by,
    )
    comparisons = annotation_services.add_comparisons(
        project=project, groups=text_groups(6, start=100), held_out=True
    )
    for number, comparison in enumerate(comparisons):
        MatchComparison.objects.create(match=match, comparison=comparison, left_index=0)
        if number < judged:
            judge(comparison, 0 if number else 1)
    return match


def judge(comparison: Comparison, choice: object) -> None:
    user = make_user()
    Judgement.objects.create(
        comparison=comparison,
        annotator=user,
        order=[0, 1],
        choice=choice,
        template_version=1,
        created_at=queue.database_now(),
        client_id="00000000-0000-4000-8000-000000000000",
        request_digest="",
    )
    Comparison.objects.filter(pk=comparison.pk).update(open_slots=0)


@pytest.fixture
def pages(project, base, done) -> list[str]:
    """One address of every page."""
    draft = factories.queued_run(project, base)
    Run.objects.filter(pk=draft.pk).update(status=Run.Status.DRAFT)
    match = make_match(project, done, base)
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
        finish(factories.queued_run(project, base))
    address = reverse("training:runs", args=[project.pk])
    with django_assert_num_queries(6):  # session, user, project, runs, counts, navigation
        first = as_mona.get(address)
    for _ in range(5):
        finish(factories.queued_run(project, base))
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


def test_start_at_once(project, base, as_mona):
    address = reverse("training:run_new", args=[project.pk]) + "?method=reward_model"
    as_mona.post(address, form_values(as_mona, address) | {"base": "tiny", "start": "1"})
    assert Run.objects.get().start_when_ready


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
    reward = finish(factories.queued_run(project, base, method="reward_model"))
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
    log_metrics(run, steps=3)
    text = as_mona.get(run.get_absolute_url()).content.decode()
    assert sentence in text
    for action in ("start", "cancel", "retry"):
        assert (reverse("training:run_action", args=[run.pk, action]) in text) == (action in buttons)
    assert "a tie" in text
    assert "1,234" in text


def test_run_takes_few_queries(done, as_mona, django_assert_num_queries):
    Run.objects.filter(pk=done.run_id).update(preview=PREVIEW)
    with django_assert_num_queries(7):  # session, user, run, project, metrics, other runs, navigation
        page = as_mona.get(reverse("training:run", args=[done.run_id])).content.decode()
    assert reverse("training:checkpoint_download", args=[done.pk]) in page
    assert "Compare blind with its base" in page
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
    log_metrics(run)
    address = reverse("training:run_progress", args=[run.pk])
    with django_assert_num_queries(5):  # session, user, run, project, metrics
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


# Two runs


def test_compare(project, base, as_mona, done, django_assert_num_queries):
    other = factories.queued_run(project, base, seed=3)
    log_metrics(other, steps=2)
    finish(other)
    Run.objects.filter(pk=other.pk).update(config={**get_method("dpo").config().model_dump(), "beta": 0.5})
    address = reverse("training:compare", args=[project.pk]) + f"?a={done.run_id}&b={other.pk}"
    with django_assert_num_queries(7):  # session, user, project, runs, metrics of both, navigation
        response = as_mona.get(address)
    differences = {name: (a, b) for name, a, b in response.context["differences"]}
    assert differences == {"seed": (0, 3), "config.beta": (0.1, 0.5)}
    assert ("loss", 0.2, 0.5) in response.context["figures"]
    assert len(response.context["series"]["b"]) == 3
    assert b'id="series"' in response.content
    foreign = factories.queued_run(make_project(by=project.created_by), base)
    Run.objects.filter(pk=foreign.pk).update(started_at=queue.database_now())
    response = as_mona.get(reverse("training:compare", args=[project.pk]) + f"?a={foreign.pk}&b={other.pk}")
    assert response.context["a"] is None


# Models


def test_lineage(project, base, as_mona, done, django_assert_num_queries):
    child = factories.queued_run(project, base)
    Run.objects.filter(pk=child.pk).update(base=None, base_checkpoint=done)
    finish(Run.objects.get(pk=child.pk))
    make_match(project, done, base)
    (root,) = browsing.lineage_of(project)
    assert root.name == "tiny"
    assert [branch.name for branch in root.branches] == [f"checkpoint:{done.pk}"]
    assert [branch.parent for branch in root.branches[0].branches] == [f"checkpoint:{done.pk}"]
    ((_, result),) = root.branches[0].matches
    assert result["rate"] == 0.75
    with django_assert_num_queries(
        9
    ):  # session, user, project, models, results, matches and their two, navigation
        text = as_mona.get(reverse("training:models", args=[project.pk])).content.decode()
    assert "Wins 75 %" in text
    assert text.count("Compare blind with base") == 2


def test_register_a_model(project, as_mona, tmp_path, manager):
    address = reverse("training:models", args=[project.pk])
    refused = as_mona.post(address, {"name": "new", "location": str(tmp_path / "nowhere")})
    assert refused.status_code == 400
    assert "There is no folder" in refused.content.decode()
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors").touch()
    assert as_mona.post(address, {"name": "new", "location": str(tmp_path)}).status_code == 302
    assert "new" in as_mona.get(address).content.decode()
    helper = make_user()
    annotation_services.add_member(project=project, username=helper.username, role="manager", by=manager)
    assert client_of(helper).get(address).status_code == 200
    assert client_of(helper).post(address, {"name": "x", "location": str(tmp_path)}).status_code == 403


def test_download(done, as_mona):
    response = as_mona.get(reverse("training:checkpoint_download", args=[done.pk]))
    assert response["Content-Type"] == "application/zip"
    assert response["Content-Disposition"] == f'attachment; filename="dpo-run-{done.run_id}.zip"'
    assert b"".join(response.streaming_content) == b"zip"


# Matches


def test_one_button_queues_a_blind_match(project, base, as_mona, done):
    annotation_services.add_comparisons(project=project, groups=text_groups(3, start=50), held_out=True)
    page = as_mona.get(reverse("training:run", args=[done.run_id])).content.decode()
    button = re.search(r'<form method="post" action="([^"]*/matches/)">(.*?)</form>', page, re.DOTALL)
    assert button
    values = dict(re.findall(r'name="(\w+)" value="([^"]*)"', button[2]))
    response = as_mona.post(button[1], values)
    match = Match.objects.get()
    assert response.url == match.get_absolute_url()
    assert (match.left_run.base_checkpoint, match.right_run.base, match.prompts) == (done, base, 3)


def test_match_that_cannot_be(project, base, as_mona, done):
    address = reverse("training:matches", args=[project.pk])
    response = as_mona.post(address, {"left": "tiny", "right": "tiny", "samples_per_prompt": "1"})
    assert response.status_code == 400
    assert "cannot be compared with itself" in response.content.decode()
    response = as_mona.post(
        address, {"left": f"checkpoint:{done.pk}", "right": "tiny", "samples_per_prompt": "1"}
    )
    assert "There are no held-out prompts" in response.content.decode()
    assert not Match.objects.exists()


def test_match(project, base, as_mona, done, django_assert_num_queries):
    match = make_match(project, done, base)
    with django_assert_num_queries(8):  # session, user, match, project, sides, answers, progress, navigation
        text = as_mona.get(match.get_absolute_url()).content.decode()
    assert "<strong>75 %</strong>" in text
    assert "This is not enough to say which is better." in text
    assert "4 of 6 comparisons are judged" in text
    part = as_mona.get(match.get_absolute_url(), headers={"HX-Request": "true"})
    assert part.content.decode().lstrip().startswith('<div id="match" hx-get')
    assert "HX-Request" in part["Vary"]
    Comparison.objects.update(open_slots=0)
    assert 'hx-trigger="every' not in as_mona.get(match.get_absolute_url()).content.decode()


def test_matches_take_the_same_queries_for_many(project, base, as_mona, done, django_assert_num_queries):
    make_match(project, done, base)
    address = reverse("training:matches", args=[project.pk])
    with django_assert_num_queries(
        9
    ):  # session, user, project, two lists of models, matches and their two, navigation
        as_mona.get(address)
    make_match(project, done, base)
    with django_assert_num_queries(9):
        assert as_mona.get(address).content.count(b"75 %") == 2


# Schedules


def test_schedules(project, base, as_mona, done):
    address = reverse("training:schedules", args=[project.pk])
    values = {
        "name": "Often",
        "every_judgements": "200",
        "first": "new:reward_model:tiny",
        "then": f"run:{done.run_id}",
    }
    both = as_mona.post(address, values | {"cron": "0 3 * * 1"})
    assert both.status_code == 400
    assert "either a number of judgements or a cron line" in both.content.decode()
    assert as_mona.post(address, values | {"every_judgements": "", "cron": "never"}).status_code == 400
    assert as_mona.post(address, values).status_code == 302
    schedule = Schedule.objects.get()
    assert [step["method"] for step in schedule.plan] == ["reward_model", "dpo"]
    assert schedule.plan[1]["config"]["beta"] == 0.1
    assert "every 200 judgements" in as_mona.get(address).content.decode()
    for action, enabled in (("disable", False), ("enable", True)):
        as_mona.post(reverse("training:schedule_action", args=[schedule.pk, action]))
        schedule.refresh_from_db()
        assert schedule.enabled is enabled
    outsider = client_of(make_user("manager"))
    assert outsider.post(reverse("training:schedule_action", args=[schedule.pk, "delete"])).status_code == 404
    as_mona.post(reverse("training:schedule_action", args=[schedule.pk, "delete"]))
    assert not Schedule.objects.exists()


# The five answers


def test_overview_of_nothing(manager, as_mona, django_assert_num_queries):
    project = make_project(by=manager)
    with django_assert_num_queries(9):
        text = as_mona.get(reverse("training:overview", args=[project.pk])).content.decode()
    assert "no reward model was trained" in text
    assert "no model was compared blind" in text
    assert text.count("Nothing.") == 2


def test_overview(project, base, as_mona, done):
    reward = factories.queued_run(project, base, method="reward_model")
    finish(reward, **{"eval/accuracy_majority": 0.8, "eval/accuracy_low": 0.7, "eval/accuracy_high": 0.9})
    match = make_match(project, done, base)
    failed = factories.queued_run(project, base)
    now = queue.database_now()
    Run.objects.filter(pk=failed.pk).update(status="failed", finished_at=now)
    old = factories.queued_run(project, base)
    Run.objects.filter(pk=old.pk).update(status="failed", finished_at=now - timedelta(days=30))
    Run.objects.filter(pk__in=[match.left_run_id, match.right_run_id]).update(status="done")
    waiting = factories.queued_run(project, base)
    text = as_mona.get(reverse("training:overview", args=[project.pk])).content.decode()
    assert "80 %" in text
    assert "70 % to 90 %" in text
    assert "75 %" in text
    assert waiting.get_absolute_url() in text
    assert f'1 run failed this week; the newest is <a href="{failed.get_absolute_url()}">' in text
    assert "2 comparisons to be judged" in text
