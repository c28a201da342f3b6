"""Work of light tasks: files on their way in and out, and changes to all of a project."""

from typing import ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _

from annotation.models.people import User
from annotation.models.projects import Project
from annotation.models.references import referred
from annotation.permissions import ProjectRows


class ImportJobQuerySet(ProjectRows["ImportJob"]):
    pass


class ExportJobQuerySet(ProjectRows["ExportJob"]):
    pass


class Work(models.Model):
    """Something that a light task works on."""

    class Status(models.TextChoices):
        QUEUED = "queued", _("queued")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        FAILED = "failed", _("failed")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="%(class)ss")
    status = models.CharField(max_length=8, choices=Status, default=Status.QUEUED)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    touched_at = models.DateTimeField(auto_now_add=True, help_text="the last sign of life")
    attempts = models.PositiveSmallIntegerField(default=0, help_text="starts since it last got any further")
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True

    UNFINISHED = (Status.QUEUED, Status.RUNNING)


class Job(Work):
    """A file on its way in or out."""

    format = models.CharField(max_length=32)
    storage_key = models.CharField(max_length=200, blank=True)
    file_name = models.CharField(max_length=200, blank=True)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")

    class Meta:
        abstract = True


class BulkChange(Work):
    """A change to many rows of a project, made some at a time beside the people who work there.

    `annotation.services.bulk` has a function for each kind, and says what `subject` holds.
    """

    class Kind(models.TextChoices):
        STRATEGY = "strategy", _("Putting the queue into another order")
        SET_ASIDE = "set_aside", _("Setting judgements aside")
        RESTORE = "restore", _("Bringing judgements back")
        GROUP = "group", _("Dissolving a group")
        DELETE = "delete", _("Deleting judgements that somebody took back")

    kind = models.CharField(max_length=16, choices=Kind)
    subject = models.JSONField(default=dict)
    position = models.BigIntegerField(default=0, help_text="the last id that is done")
    done = models.PositiveIntegerField(default=0)
    total = models.PositiveIntegerField(default=0, help_text="as counted at the beginning")

    def __str__(self) -> str:
        return f"{self.kind} in {self.project_id}: {self.done} of {self.total}"


class ImportJob(Job):
    """A file of groups that becomes comparisons; every rejected row is kept with its reason."""

    class Use(models.TextChoices):
        JUDGEMENTS = "judgements", _("judgements that somebody gave")
        GOLD = "gold", _("right answers: gold questions, mixed in with the work")
        QUALIFICATION = "qualification", _("right answers: questions of the test before the first work")

    use = models.CharField(
        max_length=16, choices=Use, default=Use.JUDGEMENTS, help_text="what the answers in the file are"
    )
    held_out = models.BooleanField(default=False, help_text="its comparisons are for evaluation only")
    accepted = models.PositiveIntegerField(default=0)
    rejected = models.PositiveIntegerField(default=0)
    duplicates = models.PositiveIntegerField(
        default=0, help_text="rows that equal another of this file or of the project"
    )
    skip_duplicates = models.BooleanField(default=False, help_text="they are counted and not added")
    # How far it is; committed together with the rows before it, so that a second attempt goes on from there.
    position = models.BigIntegerField(default=0, help_text="bytes of the (unpacked) rows, or rows of a table")
    line = models.PositiveIntegerField(default=0, help_text="lines that are done")
    total = models.BigIntegerField(default=0, help_text="where the position ends; 0 where that is not known")

    objects: ClassVar[ImportJobQuerySet] = ImportJobQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        triggers: ClassVar = [
            referred("import_job_id", table="annotation_comparison", to="annotation_importjob")
        ]

    def __str__(self) -> str:
        return f"import {self.pk}"


class RejectedRow(models.Model):
    job = models.ForeignKey(ImportJob, on_delete=models.CASCADE, related_name="rejected_rows")
    line = models.PositiveIntegerField(help_text="one-based")
    field = models.CharField(max_length=100, blank=True)
    reason = models.CharField(max_length=500)

    class Meta:
        ordering = ["job", "line", "pk"]

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


class ExportJob(Job):
    """A file that a worker writes once and members of the project download."""

    container = models.CharField(max_length=8, default="jsonl", help_text="what the rows are packed in")
    filters = models.JSONField(default=dict)
    rows = models.PositiveIntegerField(default=0)
    left_out = models.JSONField(default=dict, help_text="what the format cannot hold, counted by reason")

    objects: ClassVar[ExportJobQuerySet] = ExportJobQuerySet.as_manager()  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"export {self.pk}"
