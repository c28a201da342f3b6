"""Comparing runs, models, matches, schedules and the overview, through HTTP."""

import html
import io
import re
import uuid
import zipfile
from datetime import timedelta

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.urls import reverse

from annotation import services as annotation_services
from annotation.models import Candidate, Comparison
from tests.annotation.factories import add_annotators, add_texts, make_project, make_user, text_groups
from tests.training import factories
from tests.training.conftest import client_of
from training import browsing
from training.models import Match, Run, Schedule
from training.services import queue
from training.tuning.registry import get_method

# Two runs


def test_compare(project, base, as_mona, done, django_assert_num_queries):
    other = factories.queued_run(project, base, seed=3)
    factories.log_metrics(other, steps=2)
    factories.finish(other)
    Run.objects.filter(pk=other.pk).update(config={**get_method("dpo").config().model_dump(), "beta": 0.5})
    address = reverse("training:compare", args=[project.pk]) + f"?a={done.run_id}&b={other.pk}"
    with django_assert_num_queries(8):  # session, user, project, runs, metrics of both, matches, navigation
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


def test_what_two_runs_made(project, base, as_mona, done):
    """Prompts that both have, as they are last; and the blind match between them, seen from A's side."""
    other = factories.finish(factories.queued_run(project, base, seed=3))
    for run, word in ((done.run_id, "early"), (other.run_id, "late")):
        rows = [
            {"when": "before", "prompt": "Shared?", "text": "base"},
            {"when": "after", "step": 3, "prompt": "Shared?", "text": word},
            {"when": "before", "prompt": f"Only of {run}?", "text": "base"},
        ]
        Run.objects.filter(pk=run).update(samples=rows, started_at=queue.database_now())
    match = factories.make_match(project, done, base)
    Run.objects.filter(pk=match.right_run_id).update(base=None, base_checkpoint=other)
    address = reverse("training:compare", args=[project.pk])
    for a, b, rate, words in (
        (done, other, 0.75, ("early", "late")),
        (other, done, 0.25, ("late", "early")),
    ):
        context = as_mona.get(f"{address}?a={a.run_id}&b={b.run_id}").context
        ((prompt, left, right),) = context["samples"]
        assert (prompt, left["text"], right["text"]) == ("Shared?", *words)
        ((found, result),) = context["matches"]
        assert (found, result["rate"]) == (match, rate)
        assert result["low"] < rate < result["high"]


# Models


def test_lineage(project, base, as_mona, done, django_assert_num_queries):
    child = factories.queued_run(project, base)
    Run.objects.filter(pk=child.pk).update(base=None, base_checkpoint=done)
    factories.finish(Run.objects.get(pk=child.pk))
    factories.make_match(project, done, base)
    (root,) = browsing.lineage_of(project)
    assert root.name == "tiny"
    assert [branch.name for branch in root.branches] == [f"checkpoint:{done.pk}"]
    assert [branch.parent for branch in root.branches[0].branches] == [f"checkpoint:{done.pk}"]
    ((_, result),) = root.branches[0].matches
    assert result["rate"] == 0.75
    # session, user, project, models, deletions, results, matches and their two, navigation
    with django_assert_num_queries(10):
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


def test_download_for_interfaces(done, as_mona):
    """The page names the file where there is one, and gives it out of the zip."""
    address = reverse("training:checkpoint_download", args=[done.pk]) + "?for=interfaces"
    run_page = reverse("training:run", args=[done.run_id])
    assert as_mona.get(address).status_code == 404
    assert address not in as_mona.get(run_page).content.decode()
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as result:
        result.writestr("lora_for_interfaces.safetensors", b"weights")
    done.storage_key = default_storage.save("results/lora.zip", ContentFile(held.getvalue()))
    done.metadata = {"interface_file": "lora_for_interfaces.safetensors"}
    done.save()
    assert address in as_mona.get(run_page).content.decode()
    response = as_mona.get(address)
    assert f'filename="dpo-run-{done.run_id}-lora.safetensors"' in response["Content-Disposition"]
    assert b"".join(response.streaming_content) == b"weights"


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
    match = factories.make_match(project, done, base)
    with django_assert_num_queries(7):  # session, user, match, sides, answers, progress, navigation
        text = as_mona.get(match.get_absolute_url()).content.decode()
    assert "<strong>75 %</strong>" in text
    assert "This is not enough to say which is better." in text
    assert "4 of 6 comparisons are judged" in text
    part = as_mona.get(match.get_absolute_url(), headers={"HX-Request": "true"})
    assert part.content.decode().lstrip().startswith('<div id="match" hx-get')
    assert "HX-Request" in part["Vary"]
    Comparison.objects.update(open_slots=0)
    assert 'hx-trigger="every' not in as_mona.get(match.get_absolute_url()).content.decode()


def test_a_match_leads_to_its_pictures_and_texts(project, base, as_mona, done):
    """Where people preferred the one, and where the other."""
    match = factories.make_match(project, done, base, prompts=3, judged=3, lost=1)
    name = f"checkpoint:{done.pk}"
    for index, source in enumerate((name, "tiny")):
        own = Candidate.objects.filter(comparison__in=match.comparisons.values("comparison"), index=index)
        own.update(source=source)
    page = as_mona.get(match.get_absolute_url()).content.decode()
    links = [html.unescape(one) for one in re.findall(r'<a href="([^"]*view=gallery[^"]*)"', page)]
    shown = [as_mona.get(link).content.decode() for link in links]
    assert [one.count("preferred by 1 of 1") for one in shown] == [2, 1]


def test_matches_take_the_same_queries_for_many(project, base, as_mona, done, django_assert_num_queries):
    factories.make_match(project, done, base)
    address = reverse("training:matches", args=[project.pk])
    with django_assert_num_queries(
        9
    ):  # session, user, project, two lists of models, matches and their two, navigation
        as_mona.get(address)
    factories.make_match(project, done, base)
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
    with django_assert_num_queries(12):
        text = as_mona.get(reverse("training:overview", args=[project.pk])).content.decode()
    assert "no reward model was trained" in text
    assert "no model was compared blind" in text
    assert text.count("Nothing.") == 2


def test_overview(project, base, as_mona, done):
    reward = factories.queued_run(project, base, method="reward_model")
    factories.finish(
        reward, **{"eval/accuracy_majority": 0.8, "eval/accuracy_low": 0.7, "eval/accuracy_high": 0.9}
    )
    match = factories.make_match(project, done, base)
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


def test_overview_of_disagreements(manager, as_mona):
    """Who may decide them gets there by a link; a viewer reads the number."""
    project = make_project(by=manager, labels_per_comparison=2)
    add_texts(project, 3)
    first, second = add_annotators(project, 2)
    for annotator, said in ((first, 0), (second, 1)):
        for _number in range(2):
            lease = annotation_services.next_lease(project=project, user=annotator, now=queue.database_now())
            annotation_services.submit_judgement(
                lease_id=lease.pk,
                annotator=annotator,
                client_id=uuid.uuid4(),
                choice=lease.order.index(said),
                now=queue.database_now(),
            )
    overview, review = (
        reverse(name, args=[project.pk]) for name in ("training:overview", "annotation:review")
    )
    assert f'<a href="{review}">2 disagreements to be decided.</a>' in as_mona.get(overview).content.decode()
    watcher = make_user()
    annotation_services.add_member(project=project, username=watcher.username, role="viewer", by=manager)
    text = client_of(watcher).get(overview).content.decode()
    assert "2 disagreements to be decided." in text
    assert "1 comparison to be judged." in text
    assert review not in text
    assert reverse("annotation:judge", args=[project.pk]) not in text


def test_overview_of_many_disagreements(manager, as_mona, monkeypatch):
    """Beyond a thousand they are not counted on."""
    project = make_project(by=manager)
    monkeypatch.setattr("training.browsing.reviews_waiting", lambda project: 1000)
    text = as_mona.get(reverse("training:overview", args=[project.pk])).content.decode()
    assert "1,000 disagreements or more to be decided." in text
