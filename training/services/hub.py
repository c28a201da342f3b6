"""Copies of results on a model hub, when a person asks for one. The token stays with the worker."""

import json
import logging
import re
import tempfile
import zipfile
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from annotation.errors import Conflict, Invalid
from annotation.models import User
from training import storage
from training.models import Checkpoint, HubUpload

logger = logging.getLogger(__name__)
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
RESEND_AFTER = timedelta(minutes=2)
GIVE_UP_AFTER = timedelta(hours=3)
UNARMED = "The worker has no token for the hub: set HF_TOKEN in its environment."


def create_upload(*, by: User, checkpoint: Checkpoint, repository: str, private: bool = True) -> HubUpload:
    """Ask for a copy of a checkpoint in `repository` (owner/name). Invalid for another name."""
    from training import tasks

    if not NAME.fullmatch(repository):
        raise Invalid({"repository": _("A repository is an owner and a name, as in owner/name.")})
    with transaction.atomic():
        checkpoint = Checkpoint.objects.select_for_update(no_key=True).get(pk=checkpoint.pk)
        if checkpoint.uploads.open().filter(repository=repository).exists():
            raise Conflict(_("This result is already on its way to %(name)s.") % {"name": repository})
        upload = HubUpload.objects.create(
            project_id=checkpoint.run.project_id,
            checkpoint=checkpoint,
            repository=repository,
            private=private,
            created_by=by,
        )
        transaction.on_commit(partial(tasks.upload_result.delay, upload_id=upload.pk))
    return upload


def upload_result(*, upload_id: int) -> None:
    """Do what was asked for, once, however often the message arrives."""
    waiting = HubUpload.objects.filter(pk=upload_id, status=HubUpload.Status.QUEUED)
    if not waiting.update(status=HubUpload.Status.RUNNING, started_at=Now()):
        return
    upload = HubUpload.objects.select_related("checkpoint__run").get(pk=upload_id)
    try:
        address = _upload(upload)
    except Exception as error:
        logger.exception("upload %s", upload_id)
        _end(upload, HubUpload.Status.FAILED, error=_without_token(str(error) or type(error).__name__))
    else:
        _end(upload, HubUpload.Status.DONE, url=address)


def wake_uploads(*, now: datetime) -> None:
    """Messages that were lost are sent again; an upload whose worker died is given up."""
    from training import tasks

    lost = HubUpload.objects.filter(status=HubUpload.Status.RUNNING, started_at__lt=now - GIVE_UP_AFTER)
    lost.update(status=HubUpload.Status.FAILED, error="The worker was lost; ask again.", finished_at=Now())
    waiting = HubUpload.objects.filter(status=HubUpload.Status.QUEUED, created_at__lt=now - RESEND_AFTER)
    for pk in waiting.order_by("pk").values_list("pk", flat=True):
        tasks.upload_result.delay(upload_id=pk)


def _upload(upload: HubUpload) -> str:
    """The address of the copy. Raises whatever goes wrong."""
    if not settings.HF_TOKEN:
        raise RuntimeError(UNARMED)
    from huggingface_hub import HfApi

    api = HfApi(token=settings.HF_TOKEN)
    run = upload.checkpoint.run
    made = api.create_repo(upload.repository, private=upload.private, exist_ok=True)
    if upload.private and not api.model_info(upload.repository).private:
        raise RuntimeError(f"{upload.repository} exists and is public, and this copy is to be private.")
    with (
        tempfile.TemporaryDirectory() as folder,
        storage.local_copy(upload.checkpoint.storage_key) as path,
    ):
        with zipfile.ZipFile(path) as result:
            result.extractall(folder)
        without_local_paths(Path(folder), upload.checkpoint.metadata)
        api.upload_folder(
            repo_id=upload.repository, folder_path=folder, commit_message=f"{run.method}, run {run.pk}"
        )
    return str(made)


def without_local_paths(folder: Path, metadata: dict[str, Any]) -> None:
    """Let the card and the adapter name the base as people do, not by its place on a worker's disk.

    A card whose base is no name of the hub says nothing in its header: hubs refuse the others.
    """
    name = str(metadata.get("base_name") or "")
    card = folder / "README.md"
    if card.exists() and not NAME.fullmatch(name):
        lines = card.read_text(encoding="utf-8").split("\n")
        end = lines.index("---", 1) if lines[:1] == ["---"] and "---" in lines[1:] else 0
        kept = [line for at, line in enumerate(lines) if at > end or not line.startswith("base_model:")]
        card.write_text("\n".join(kept), encoding="utf-8")
    for path in folder.rglob("adapter_config.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        if Path(str(found.get("base_model_name_or_path"))).is_absolute() and name:
            path.write_text(json.dumps(found | {"base_model_name_or_path": name}, indent=2), encoding="utf-8")


def _end(upload: HubUpload, status: HubUpload.Status, *, url: str = "", error: str = "") -> None:
    held = HubUpload.objects.filter(pk=upload.pk, status=HubUpload.Status.RUNNING)
    held.update(status=status, url=url, error=error[:1000], finished_at=Now())


def _without_token(text: str) -> str:
    return text.replace(settings.HF_TOKEN, "…") if settings.HF_TOKEN else text
