"""Who changed what and when, written by the database itself, and counts of what somebody did lately.

Triggers write an `AuditEntry` for every change to the rows they watch, whichever code made it; the person is
what `annotation.audit` told the connection. Entries cannot be changed or deleted, by triggers too.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import pgtrigger
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from annotation.permissions import ProjectRows

_WRITE = """
    is_update := TG_OP = 'UPDATE';
    old_row := to_jsonb(OLD) - '{{{ignored}}}'::text[];
    new_row := to_jsonb(NEW) - '{{{ignored}}}'::text[];
    whole := COALESCE(to_jsonb(NEW), to_jsonb(OLD));
    IF is_update THEN
        SELECT jsonb_object_agg(o.key, o.value), jsonb_object_agg(o.key, new_row -> o.key)
        INTO old_row, new_row
        FROM jsonb_each(old_row) AS o WHERE o.value IS DISTINCT FROM new_row -> o.key;
    END IF;
    INSERT INTO annotation_auditentry (at, project_id, actor_id, subject, subject_id, change, before, after)
    VALUES (
        clock_timestamp(), {project}, NULLIF(current_setting('tiebreak.actor', true), '')::bigint,
        '{subject}', (whole ->> 'id')::bigint, lower(TG_OP), old_row, new_row
    );
    RETURN NULL;
"""
_DECLARED = [("is_update", "boolean"), ("old_row", "jsonb"), ("new_row", "jsonb"), ("whole", "jsonb")]


def audited(
    subject: str, *, project: str, ignored: Iterable[str] = (), inserts: bool = True
) -> list[pgtrigger.Trigger]:
    """Triggers for a model's `Meta.triggers`.

    `project` is the SQL of a row's project, from the row as JSON in `whole`. A change of `ignored` columns
    alone is none. Without `inserts` only changes and deletions are written: the rows say who made them.
    """
    columns = sorted(ignored)
    writes: Any = {"func": _WRITE.format(subject=subject, project=project, ignored=",".join(columns))}
    changed = pgtrigger.Trigger(
        name=f"{subject}_changed",
        when=pgtrigger.After,
        operation=pgtrigger.Update,
        condition=pgtrigger.AnyChange(exclude=columns),
        declare=_DECLARED,
        **writes,
    )
    others = pgtrigger.Insert | pgtrigger.Delete if inserts else pgtrigger.Delete
    return [
        changed,
        pgtrigger.Trigger(
            name=f"{subject}_came_or_went",
            when=pgtrigger.After,
            operation=others,
            declare=_DECLARED,
            **writes,
        ),
    ]


class AuditEntryQuerySet(ProjectRows["AuditEntry"]):
    pass


class AuditEntry(models.Model):
    """One change to a project, a member or a judgement. Only the columns that changed, or the whole row."""

    class Change(models.TextChoices):
        INSERT = "insert", _("added")
        UPDATE = "update", _("changed")
        DELETE = "delete", _("deleted")

    class Subject(models.TextChoices):
        PROJECT = "project", _("project")
        MEMBER = "member", _("member")
        JUDGEMENT = "judgement", _("judgement")
        HUB_UPLOAD = "hub_upload", _("copy on a hub")

    at = models.DateTimeField(db_default=Now())
    # Entries outlive what they are about, so that these are no foreign keys to the database.
    project = models.ForeignKey(
        "Project", null=True, db_constraint=False, on_delete=models.DO_NOTHING, related_name="+"
    )
    actor = models.ForeignKey(
        "User", null=True, db_constraint=False, on_delete=models.DO_NOTHING, related_name="+",
        help_text="nobody: the command line or a worker",
    )  # fmt: skip
    subject = models.CharField(max_length=16, choices=Subject)
    subject_id = models.BigIntegerField()
    change = models.CharField(max_length=8, choices=Change)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)

    objects: ClassVar[AuditEntryQuerySet] = AuditEntryQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        indexes = [models.Index(fields=["project", "-at"], name="audit_of_project")]
        triggers = [pgtrigger.Protect(name="append_only", operation=pgtrigger.Update | pgtrigger.Delete)]

    def __str__(self) -> str:
        return f"{self.change} {self.subject} {self.subject_id}"


class RateCount(models.Model):
    """How often somebody did something since `started_at`; the key names both, as a keyed digest."""

    key = models.CharField(max_length=64, primary_key=True)
    started_at = models.DateTimeField()
    count = models.PositiveIntegerField()

    class Meta:
        indexes = [models.Index(fields=["started_at"], name="rate_count_age")]

    def __str__(self) -> str:
        return f"{self.count} since {self.started_at}"
