"""What Prometheus reads, and who may."""

from datetime import timedelta

import pytest
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families

from annotation import services as annotation_services
from annotation.models import ExportJob, Judgement, Lease, Webhook, WebhookDelivery
from tests.annotation import factories as annotation_factories
from tests.training import factories
from training.models import BaseModel, Metric, Run
from training.services.queue import database_now

pytestmark = pytest.mark.django_db
TOKEN = "a token for the one who scrapes"


@pytest.fixture(autouse=True)
def token(settings):
    settings.METRICS_TOKEN = TOKEN


def scrape(client: Client) -> dict[tuple[str, tuple[str, ...]], float]:
    """Each sample by its name and the values of its labels, by their names."""
    response = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert response.status_code == 200
    assert "no-cache" in response["Cache-Control"]
    families = text_string_to_metric_families(response.content.decode())
    return {
        (
            sample.name.removeprefix("tiebreak_"),
            tuple(value for _name, value in sorted(sample.labels.items())),
        ): sample.value
        for family in families
        for sample in family.samples
    }


def test_only_with_the_token(client, settings):
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer another"}).status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer \xff"}).status_code == 401
    settings.METRICS_TOKEN = ""
    assert client.get("/metrics", headers={"Authorization": "Bearer "}).status_code == 404


def test_nothing_yet(client, django_assert_num_queries):
    """Every series is there from the beginning, so that an alarm about it can be tried."""
    with django_assert_num_queries(12):
        found = scrape(client)
    assert set(found.values()) == {0.0}
    assert ("run_queue_age_seconds", ("cpu",)) in found
    assert ("job_age_seconds", ("export", "queued")) in found
    assert ("leases_lapsed", ()) in found


def test_judging(client):
    """Two of six slots judged, one of them within five minutes; one in hand, whose time ran out 90 s ago."""
    project = annotation_factories.make_project(labels_per_comparison=2)
    annotation_factories.add_texts(project, 3)
    (anna,) = annotation_factories.add_annotators(project, 1)
    annotation_factories.judge(anna, project)
    old = annotation_factories.judge(anna, project)
    now = database_now()
    Judgement.objects.filter(pk=old.pk).update(created_at=now - timedelta(minutes=6))
    lease = annotation_services.next_lease(project=project, user=anna, now=now)
    Lease.objects.filter(pk=lease.pk).update(expires_at=now - timedelta(seconds=90))
    found = scrape(client)
    assert found["judgements_per_second", ()] == pytest.approx(1 / 300)
    assert (found["slots_wanted", ()], found["slots_open", ()]) == (6, 3)
    assert (found["leases_open", ()], found["leases_lapsed", ()]) == (1, 1)
    assert found["lease_lapsed_age_seconds", ()] >= 90


def test_jobs_and_messages(client):
    project = annotation_factories.make_project()
    job = ExportJob.objects.create(project=project, format="groups", created_by=project.created_by)
    now = database_now()
    ExportJob.objects.filter(pk=job.pk).update(created_at=now - timedelta(seconds=40))
    hook = Webhook.objects.create(
        project=project, url="https://example.org", events=[], secret="x", created_by=project.created_by
    )
    for due in (now - timedelta(seconds=20), now + timedelta(hours=1)):
        WebhookDelivery.objects.create(
            webhook=hook, event="judgement.created", payload={}, next_at=due, created_at=now
        )
    found = scrape(client)
    assert found["jobs", ("export", "queued")] == 1
    assert found["jobs", ("export", "running")] == found["jobs", ("import", "queued")] == 0
    assert found["job_age_seconds", ("export", "queued")] >= 40
    assert found["webhook_deliveries_due", ()] == 1
    assert found["webhook_delivery_age_seconds", ()] >= 20


def test_runs(client):
    project = annotation_factories.make_project()
    base = BaseModel.objects.create(name="m", modality="text", location="x/y", created_by=project.created_by)
    waiting = factories.queued_run(project, base)
    working = factories.queued_run(project, base, device_kind="cuda")
    now = database_now()
    Run.objects.filter(pk=waiting.pk).update(queued_at=now - timedelta(minutes=3))
    Run.objects.filter(pk=working.pk).update(
        status="running",
        step=7,
        started_at=now - timedelta(minutes=9),
        heartbeat_at=now - timedelta(seconds=5),
        progress_at=now - timedelta(seconds=50),
    )
    told = {"loss": 0.5, "memory/allocated_gib": 2.0, "memory/peak_gib": 3.0, "memory/total_gib": 8.0}
    Metric.objects.create(run=working, step=6, values=told)
    Metric.objects.create(run=working, step=7, kind="eval", values={"eval/loss": 0.4})
    found = scrape(client)
    assert found["runs", ("cpu", "queued")] == found["runs", ("cuda", "running")] == 1
    assert found["runs", ("cuda", "queued")] == 0
    assert found["run_queue_age_seconds", ("cpu",)] >= 180
    names = ("cuda", "dpo", str(working.pk))
    assert 5 <= found["run_heartbeat_age_seconds", names] < 50 <= found["run_progress_age_seconds", names]
    assert found["run_step", names] == 7
    assert found["run_device_memory_bytes", (*names, "peak")] == 3 * 2**30
    assert found["run_device_memory_bytes", (*names, "total")] == 2**33
    assert ("run_heartbeat_age_seconds", ("cpu", "dpo", str(waiting.pk))) not in found
