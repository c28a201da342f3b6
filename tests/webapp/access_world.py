"""One of everything, and somebody of every kind, for the test of who may open what."""

import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from annotation import services
from annotation.models import (
    Comparison,
    ExportJob,
    GoldAnswer,
    ImportJob,
    Judgement,
    Lease,
    Project,
    SetAside,
    User,
    Webhook,
)
from annotation.services.media import store_image
from annotation.services.quality import refresh_quality
from tests.annotation.factories import add_texts, make_project, make_user
from tests.annotation.files import png
from tests.training import factories as training_factories
from training.models import Run, Schedule
from training.services import create_generation, create_scoring
from training.services.jobs import frozen_rows
from training.services.rounds import start_round

ROLES = ("owner", "manager", "reviewer", "annotator", "viewer")
OUTSIDER = "outsider"  # a manager of the site who is no member
NOBODY = "nobody"  # not signed in
SIGNED_IN = (*ROLES, OUTSIDER)
PASSWORD = "correct horse battery"


@dataclass
class World:
    """`rows` are named as the table of routes names them; a row per person lies under (name, person)."""

    project: Project
    users: dict[str, User]
    pages: dict[str, Client]
    apis: dict[str, APIClient]
    rows: dict[Any, Any] = field(default_factory=dict)

    def row(self, name: str, who: str) -> Any:
        return self.rows[name, who] if (name, who) in self.rows else self.rows[name]


def make_world(folder: Path) -> World:
    users = {who: make_user("annotator", username=who) for who in ROLES if who != "owner"}
    users["owner"] = make_user("manager", username="owner", password=PASSWORD)
    users[OUTSIDER] = make_user("manager", username=OUTSIDER)
    project = make_project(by=users["owner"])
    pictures = make_project(by=users["owner"], modality="image")
    for who in ROLES[1:]:
        for one in (project, pictures):
            services.add_member(project=one, username=who, role=who, by=users["owner"])
    world = World(
        project=project,
        users=users,
        pages={who: _page_client(user) for who, user in users.items()} | {NOBODY: Client()},
        apis={who: _api_client(user) for who, user in users.items()} | {NOBODY: APIClient()},
    )
    _add_collected(world, pictures)
    _add_trained(world, folder)
    return world


def _page_client(user: User) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def _api_client(user: User) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Token {services.issue_token(user=user)}")
    return client


def _add_collected(world: World, pictures: Project) -> None:
    """Comparisons, and for everybody a lease, a picture's lease and a judgement of their own."""
    project, owner = world.project, world.users["owner"]
    comparison, judged, *_ = add_texts(project, 5, needed=20)
    asked = [{"role": "user", "content": [{"type": "image", "image": store_image(png()).sha256}]}]
    group = {"prompt": asked, "candidates": [{"image": store_image(png())} for _ in range(2)]}
    (picture,) = services.add_comparisons(project=pictures, groups=[group], needed=20)
    Comparison.objects.update(open_slots=10)
    now = timezone.now()
    for slot, who in enumerate(SIGNED_IN):
        user = world.users[who]
        values = {"annotator": user, "slot": slot, "order": [0, 1], "created_at": now}
        values["expires_at"] = now + timedelta(hours=1)
        world.rows["lease", who] = Lease.objects.create(comparison=comparison, **values).pk
        world.rows["picture_lease", who] = Lease.objects.create(comparison=picture, **values).pk
        decides = values | {"kind": "review", "slot": None}
        world.rows["review_lease", who] = Lease.objects.create(comparison=comparison, **decides).pk
        old = Lease.objects.create(comparison=judged, **values | {"state": Lease.State.JUDGED})
        answer = {"choice": 0, "order": [0, 1], "template_version": 1, "created_at": now}
        judgement = Judgement.objects.create(
            comparison=judged, annotator=user, lease=old, client_id=uuid.uuid4(), request_digest="", **answer
        )
        world.rows["judgement", who] = judgement.pk
    invitation, secret = services.invite(project=project, role="viewer", by=owner, now=now)
    for who, user in world.users.items():
        world.rows["token", who] = user.api_tokens.get().pk
    refresh_quality(now=now)
    job = {"project": project, "format": "trl", "created_by": owner}
    done = {"status": "done", "storage_key": default_storage.save("exports/x.jsonl", ContentFile(b"{}"))}
    gold = GoldAnswer.objects.create(project=project, comparison=judged, choice=0)
    aside = SetAside.objects.create(
        project=project, annotator=world.users["annotator"], reason="x", created_at=now
    )
    world.rows |= {
        "group": services.save_group(project=project, name="German").pk,
        "gold": gold.pk,
        "aside": aside.pk,
        "project": project.pk,
        "picture_project": pictures.pk,
        "comparison": comparison.pk,
        "picture": picture.pk,
        "invitation": invitation.pk,
        "invitation_secret": secret,
        "annotator": world.users["annotator"].pk,
        "webhook": Webhook.objects.create(project=project, url="https://example.org/", secret="s").pk,
        "import": ImportJob.objects.create(**job).pk,
        "export": ExportJob.objects.create(**job, **done, file_name="x.jsonl").pk,
    }


def _add_trained(world: World, folder: Path) -> None:
    project, owner = world.project, world.users["owner"]
    base = training_factories.make_base(folder / "tiny", by=owner)
    run = training_factories.queued_run(project, base)
    Run.objects.filter(pk=run.pk).update(samples=[{"when": "before", "prompt": "x", "image": "abc.png"}])
    default_storage.save("samples/abc.png", ContentFile(b"\x89PNG"))
    checkpoint = training_factories.finish(training_factories.queued_run(project, base))
    match = training_factories.make_match(project, checkpoint, base, judged=0)
    plan = [{"method": "dpo", "base": "tiny"}]
    schedule = Schedule.objects.create(
        project=project, name="nightly", cron="0 3 * * *", plan=plan, created_by=owner
    )
    small = training_factories.make_base(folder / "small", name="small", by=owner)
    for who in SIGNED_IN:
        duel = training_factories.make_duel(project, (base, small), asker=world.users[who])
        world.rows["duel", who] = duel.pk
    scoring = create_scoring(by=owner, project=project, reward=[{"rule": "words"}])
    scored = [{"scores": [0.5] * len(row["candidates"])} for row in frozen_rows(scoring)]
    training_factories.ended(scoring, scored, name="scores.jsonl")
    pictures = Project.objects.get(pk=world.rows["picture_project"])
    training_factories.make_base(folder / "unet", name="unet", modality="image", by=owner)
    drawing = create_generation(by=owner, project=pictures, base="unet", prompts=["a dot"])
    drawn = [{"prompt": "a dot", "candidates": [{"image": "0.png"}], "meta": {}}]
    training_factories.ended(drawing, drawn, [("0.png", png())])
    begun = start_round(schedule=schedule, now=timezone.now())
    world.rows |= {"run": run.pk, "checkpoint": checkpoint.pk, "match": match.pk, "schedule": schedule.pk}
    world.rows |= {"round": begun.pk, "scoring": scoring.pk, "drawing": drawing.pk}
