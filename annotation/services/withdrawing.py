"""Withdrawing from a project: no further work, and what was said stays or is deleted, as the person wishes.

Deleted means gone: from the tables, from exported files, from what webhooks keep, and from the audit log, in
which remains only that and when something was deleted. What was downloaded or trained before is out of reach.
"""

from datetime import datetime
from functools import partial
from typing import Final

import pgtrigger
from django.core.files.storage import default_storage
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation.models import (
    AuditEntry,
    BulkChange,
    Consent,
    ExportJob,
    Judgement,
    Lease,
    Member,
    Project,
    User,
    Webhook,
    WebhookDelivery,
)
from annotation.services import bulk, reopening
from annotation.services.counting import mark_stale
from annotation.services.people import BATCH, locked_member, next_comparisons

APPEND_ONLY: Final = "annotation.AuditEntry:append_only"


@transaction.atomic
def withdraw(*, project: Project, user: User, now: datetime) -> Member:
    """End this person's part in the project; only they can begin it again. What they said stays."""
    reopening.give_back(project=project.pk, annotator=user, now=now)
    member = locked_member(project, user.pk)
    if member.withdrawn_at is None:
        member.withdrawn_at, member.consented_version = now, 0
        member.save(update_fields=["withdrawn_at", "consented_version"])
        Consent.objects.filter(text__project=project, user=user).update(withdrawn_at=now)
    return member


@transaction.atomic
def take_part_again(*, project: Project, user: User) -> Member:
    """Begin again after a withdrawal; a text to agree to is asked for again."""
    member = locked_member(project, user.pk)
    member.withdrawn_at = None
    member.save(update_fields=["withdrawn_at"])
    return member


def delete_judgements(*, project: Project, user: User) -> BulkChange:
    """Delete all that this person said in the project, of every kind, and open its slots for others.

    Many are deleted in the background; files that hold them are gone when this returns.
    """
    theirs = Judgement.objects.filter(comparison__project=project, annotator=user)
    recall_exports(project)
    return bulk.start(project, BulkChange.Kind.DELETE, total=theirs.count(), subject={"annotator": user.pk})


def delete_batch(change: BulkChange) -> bulk.Batch:
    """The next comparisons of an annotator; behind the last one, what else told of their answers."""
    theirs = Judgement.objects.filter(
        comparison__project=change.project_id, annotator=change.subject["annotator"]
    )
    ids = next_comparisons(theirs, after=change.position)
    reopening.lock(ids)
    deleted = _delete(theirs.filter(comparison__in=ids))
    mark_stale(ids)
    finished = len(ids) < BATCH
    if finished:
        _delete_traces(change)
    return bulk.Batch(deleted, ids[-1] if ids else change.position, finished=finished)


def _delete(judgements: QuerySet[Judgement]) -> int:
    """In a transaction, with their comparisons locked."""
    found = list(judgements.order_by("pk").values_list("pk", "lease", "lease__state", "lease__slot"))
    held = [lease for _pk, lease, state, slot in found if state == Lease.State.JUDGED and slot is not None]
    numbers = [pk for pk, *_lease in found]
    judgements.filter(pk__in=numbers).delete()
    reopening.reopen(held)
    leases = [lease for _pk, lease, *_rest in found if lease is not None]
    Lease.objects.filter(pk__in=leases, state=Lease.State.JUDGED).update(state=Lease.State.SET_ASIDE)
    _forget_what_was_said(numbers)
    return len(numbers)


def _delete_traces(change: BulkChange) -> None:
    """Why they skipped, what webhooks were told, and files that were written meanwhile."""
    annotator = User.objects.get(pk=change.subject["annotator"])
    leases = Lease.objects.filter(comparison__project=change.project_id, annotator=annotator)
    leases.exclude(skip_reason="").update(skip_reason="")
    told = WebhookDelivery.objects.filter(
        webhook__project=change.project_id, event=Webhook.Event.JUDGEMENT_CREATED
    )
    told.filter(payload__data__annotator=annotator.username).delete()
    Member.objects.filter(project=change.project_id, user=annotator).update(answered=0, answered_that_day=0)
    recall_exports(change.project)


def _forget_what_was_said(judgements: list[int]) -> None:
    """The audit log keeps that these judgements were changed and deleted, and no longer what they said."""
    entries = AuditEntry.objects.filter(subject=AuditEntry.Subject.JUDGEMENT, subject_id__in=judgements)
    with pgtrigger.ignore(APPEND_ONLY):
        entries.update(before=None, after=None)


def recall_exports(project: Project) -> None:
    """Files written so far hold what was deleted; they can be written anew without it."""
    jobs = ExportJob.objects.filter(project=project)
    keys = list(jobs.exclude(storage_key="").order_by("pk").values_list("storage_key", flat=True))
    message = _("Somebody took back what they said here, so this file was deleted. Export it again.")
    jobs.exclude(status=ExportJob.Status.FAILED).update(
        status=ExportJob.Status.FAILED, storage_key="", error=message, finished_at=timezone.now()
    )
    for key in keys:
        transaction.on_commit(partial(default_storage.delete, key))
