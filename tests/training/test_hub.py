"""Copies of results on a model hub: who may ask, what is sent, what is told, and that no token is kept."""

import json
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.urls import reverse

from annotation.models import AuditEntry
from tests.annotation.conftest import api_client
from tests.training import factories
from training import services
from training.models import HubUpload, Run
from training.services import hub, queue

pytestmark = pytest.mark.django_db
CARD = '---\nbase_model: "tiny"\ntags: [tiebreak, dpo]\n---\n# A model\nbase_model: stays in the text\n'


class FakeHub:
    """What `HfApi` is asked for, and the files as they were sent."""

    asked: ClassVar[list[tuple[str, dict[str, Any]]]] = []
    files: ClassVar[dict[str, str]] = {}
    public: ClassVar[bool] = False
    failure: ClassVar[Exception | None] = None

    def __init__(self, *, token: str) -> None:
        self.asked.append(("token", {"token": token}))

    def create_repo(self, repository: str, **options: Any) -> str:
        self.asked.append((repository, options))
        return f"https://hub.example/{repository}"

    def model_info(self, repository: str) -> Any:
        return type("Info", (), {"private": not self.public})

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.asked.append((repo_id, {"commit_message": commit_message}))
        for path in sorted(Path(folder_path).rglob("*")):
            self.files[str(path.relative_to(folder_path))] = path.read_text()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, settings: Any) -> type[FakeHub]:
    settings.HF_TOKEN = "hf_secret"
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    monkeypatch.setattr("training.tasks.upload_result.delay", services.upload_result)
    for name, value in {"asked": [], "files": {}, "public": False, "failure": None}.items():
        monkeypatch.setattr(FakeHub, name, value)
    return FakeHub


@pytest.fixture
def checkpoint(project, base, tmp_path: Path):
    found = factories.finish(factories.queued_run(project, base))
    with zipfile.ZipFile(tmp_path / "result.zip", "w") as result:
        result.writestr("README.md", CARD)
        result.writestr("adapter_config.json", json.dumps({"r": 4, "base_model_name_or_path": "/disk/tiny"}))
        result.writestr("adapter_model.safetensors", "weights")
    content = ContentFile((tmp_path / "result.zip").read_bytes())
    found.storage_key = default_storage.save("checkpoints/result.zip", content)
    found.metadata = {"base_name": "tiny"}
    found.save()
    return found


def ask(client, checkpoint, capture, **form: Any):
    with capture(execute=True):
        return client.post(
            reverse("training:checkpoint_upload", args=[checkpoint.pk]),
            {"repository": "us/our-model", "private": "on"} | form,
        )


def test_from_the_page(fake, checkpoint, as_mona, manager, django_capture_on_commit_callbacks):
    """A private repository gets the unpacked result; the page links to it, and the audit log knows who."""
    assert ask(as_mona, checkpoint, django_capture_on_commit_callbacks).status_code == 302
    assert fake.asked == [
        ("token", {"token": "hf_secret"}),
        ("us/our-model", {"private": True, "exist_ok": True}),
        ("us/our-model", {"commit_message": f"dpo, run {checkpoint.run_id}"}),
    ]
    assert sorted(fake.files) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    upload = HubUpload.objects.get()
    assert (upload.status, upload.url) == ("done", "https://hub.example/us/our-model")
    page = as_mona.get(reverse("training:run", args=[checkpoint.run_id])).content.decode()
    assert '<a href="https://hub.example/us/our-model" rel="noopener">us/our-model</a>' in page
    (entry,) = AuditEntry.objects.filter(subject="hub_upload")
    assert (entry.actor, entry.change, entry.project) == (manager, "insert", checkpoint.run.project)
    assert entry.after["repository"] == "us/our-model"
    stored = json.dumps(list(HubUpload.objects.values()), default=str) + json.dumps(entry.after)
    assert "hf_secret" not in stored


def test_no_paths_of_a_worker(fake, checkpoint, as_mona, django_capture_on_commit_callbacks):
    """The base is named as people call it; a name that is none of the hub's leaves the card's header."""
    ask(as_mona, checkpoint, django_capture_on_commit_callbacks)
    assert json.loads(fake.files["adapter_config.json"])["base_model_name_or_path"] == "tiny"
    assert fake.files["README.md"] == CARD.replace('base_model: "tiny"\n', "")
    checkpoint.metadata = {"base_name": "org/tiny"}
    checkpoint.save()
    ask(as_mona, checkpoint, django_capture_on_commit_callbacks)
    assert fake.files["README.md"] == CARD


def test_over_the_api(fake, checkpoint, manager, django_capture_on_commit_callbacks):
    client = api_client(manager)
    address = f"/api/v1/checkpoints/{checkpoint.pk}/uploads/"
    with django_capture_on_commit_callbacks(execute=True):
        made = client.post(address, {"repository": "us/our-model", "private": False}, format="json")
    assert made.status_code == 202
    assert fake.asked[1] == ("us/our-model", {"private": False, "exist_ok": True})
    (listed,) = client.get(address).json()
    assert (listed["status"], listed["private"]) == ("done", False)
    refused = client.post(address, {"repository": "no owner"}, format="json")
    assert refused.status_code == 400
    assert "owner/name" in json.dumps(refused.json())


def test_what_goes_wrong_is_told_without_the_token(
    fake, checkpoint, as_mona, monkeypatch, django_capture_on_commit_callbacks
):
    monkeypatch.setattr(fake, "failure", OSError("403 for Bearer hf_secret"))
    ask(as_mona, checkpoint, django_capture_on_commit_callbacks)
    upload = HubUpload.objects.get()
    assert (upload.status, upload.error) == ("failed", "403 for Bearer …")
    assert "403 for Bearer …" in as_mona.get(checkpoint.run.get_absolute_url()).content.decode()


def test_a_private_copy_never_lands_in_a_public_repository(
    fake, checkpoint, as_mona, monkeypatch, django_capture_on_commit_callbacks
):
    monkeypatch.setattr(fake, "public", True)
    ask(as_mona, checkpoint, django_capture_on_commit_callbacks)
    assert "exists and is public" in HubUpload.objects.get().error
    assert fake.files == {}


def test_without_a_token(fake, checkpoint, as_mona, settings, django_capture_on_commit_callbacks):
    settings.HF_TOKEN = ""
    ask(as_mona, checkpoint, django_capture_on_commit_callbacks)
    assert HubUpload.objects.get().error == hub.UNARMED
    assert fake.asked == []


def test_once_at_a_time_and_once_each(fake, checkpoint, manager, as_mona):
    """Asked twice while the first waits: a conflict. The message twice: one upload. Lost: sent again."""
    first = services.create_upload(by=manager, checkpoint=checkpoint, repository="us/our-model")
    as_mona.post(reverse("training:checkpoint_upload", args=[checkpoint.pk]), {"repository": "us/our-model"})
    assert HubUpload.objects.count() == 1
    services.upload_result(upload_id=first.pk)
    services.upload_result(upload_id=first.pk)
    assert [name for name, _ in fake.asked].count("token") == 1


def test_lost_messages_and_workers(fake, checkpoint, manager, monkeypatch):
    sent: list[int] = []
    monkeypatch.setattr("training.tasks.upload_result.delay", lambda *, upload_id: sent.append(upload_id))
    now = queue.database_now()
    waiting = services.create_upload(by=manager, checkpoint=checkpoint, repository="us/a")
    lost = services.create_upload(by=manager, checkpoint=checkpoint, repository="us/b")
    old = now - timedelta(hours=4)
    HubUpload.objects.filter(pk=waiting.pk).update(created_at=old)
    HubUpload.objects.filter(pk=lost.pk).update(status="running", started_at=old)
    services.wake_uploads(now=now)
    assert sent == [waiting.pk]
    lost.refresh_from_db()
    assert (lost.status, lost.error) == ("failed", "The worker was lost; ask again.")


def test_rows_of_jobs_are_no_models(fake, project, base, as_mona):
    job = factories.finish(factories.queued_run(project, base, method="generate"))
    Run.objects.filter(pk=job.run_id).update(method="generate")
    assert as_mona.post(reverse("training:checkpoint_upload", args=[job.pk])).status_code == 404
