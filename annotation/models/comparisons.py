"""What is compared: a prompt and its candidates (a *group*), shown to `needed` annotators."""

from typing import ClassVar

import pgtrigger
from django.contrib.postgres.indexes import BrinIndex
from django.db import models
from django.db.models import F, Q

from annotation.models.projects import AnnotatorGroup, Project
from annotation.models.references import referred, refers
from annotation.permissions import ProjectRows


class Media(models.Model):
    """A re-encoded image in the storage, named by the SHA-256 of its bytes."""

    sha256 = models.CharField(max_length=64, unique=True)
    storage_key = models.CharField(max_length=200)
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    size = models.PositiveIntegerField(help_text="bytes")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.storage_key


class SlotTally(models.Model):
    """How many slots a project has, in parts: its rows add up.

    Triggers of `Comparison` write a row for every change, so that pages need not look at every comparison
    and nobody waits for a common counter; a light task puts the rows together.
    """

    # No foreign key to the database: the rows of a project that is deleted come after it.
    project = models.ForeignKey(
        Project, db_constraint=False, on_delete=models.DO_NOTHING, related_name="slot_tallies"
    )
    wanted = models.BigIntegerField(help_text="slots")
    open = models.BigIntegerField(help_text="neither judged nor in somebody's hands")

    def __str__(self) -> str:
        return f"{self.open} of {self.wanted} open in {self.project_id}"


_TALLY_ROWS = """
    INSERT INTO annotation_slottally (project_id, wanted, open)
    SELECT project_id, {sign}sum(needed), {sign}sum(open_slots) FROM {rows} GROUP BY project_id;
    RETURN NULL;
"""
_TALLY_CHANGE = """
    INSERT INTO annotation_slottally (project_id, wanted, open)
    VALUES (NEW.project_id, NEW.needed - OLD.needed, NEW.open_slots - OLD.open_slots);
    RETURN NULL;
"""


class ComparisonQuerySet(ProjectRows["Comparison"]):
    def open(self) -> "ComparisonQuerySet":
        return self.filter(open_slots__gt=0)


class Comparison(models.Model):
    """A prompt whose candidates `needed` people judge.

    `rank` is its number in the project, `queue_key` its place in the queue, which the project's strategy
    makes of rank, priority and what was judged. Of the open slots, `reserved_open` wait for certain groups.
    """

    project = models.ForeignKey(
        Project,
        on_delete=models.CASCADE,
        related_name="comparisons",
        db_constraint=False,  # `refers` sees to it
        db_index=False,  # that of `comparison_rank_once` begins with it
    )
    rank = models.BigIntegerField()
    queue_key = models.BigIntegerField()
    priority = models.SmallIntegerField(default=0, help_text="higher comes first, where the project says so")
    prompt = models.JSONField(help_text="a text, or a list of {role, content} messages")
    prompt_key = models.CharField(
        max_length=64,
        db_collation="C",
        help_text="SHA-256 of the prompt; splits keep equal prompts together",
    )
    content_key = models.CharField(
        max_length=64, blank=True, db_collation="C", help_text="SHA-256 of the prompt and its candidates"
    )
    held_out = models.BooleanField(
        default=False, help_text="for evaluation only: never part of a training snapshot"
    )
    needed = models.PositiveSmallIntegerField()
    open_slots = models.PositiveSmallIntegerField()
    reserved_open = models.PositiveSmallIntegerField(default=0)
    reference = models.JSONField(null=True, blank=True, help_text="a known good answer, from the file")
    meta = models.JSONField(default=dict)
    import_job = models.ForeignKey(
        "ImportJob",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="comparisons",
        db_constraint=False,
        db_index=False,  # `comparison_import`
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[ComparisonQuerySet] = ComparisonQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "rank"], name="comparison_rank_once"),
            models.CheckConstraint(
                condition=Q(open_slots__lte=F("needed")), name="comparison_open_slots_within_needed"
            ),
            models.CheckConstraint(
                condition=Q(reserved_open__lte=F("open_slots")), name="comparison_reserved_within_open"
            ),
        ]
        indexes = [
            models.Index(
                fields=["project", "queue_key"],
                condition=Q(open_slots__gt=F("reserved_open")),
                name="comparison_open_queue",
            ),
            models.Index(fields=["project", "content_key"], name="comparison_content"),
            # The rows of an import lie together, so that a summary of each range of pages finds them.
            BrinIndex(fields=["import_job"], name="comparison_import", autosummarize=True),
        ]
        triggers = [
            *refers("project_id", table="annotation_comparison", to="annotation_project"),
            *refers("import_job_id", table="annotation_comparison", to="annotation_importjob"),
            referred("comparison_id", table="annotation_candidate", to="annotation_comparison"),
            pgtrigger.Trigger(
                name="slots_added",
                level=pgtrigger.Statement,
                when=pgtrigger.After,
                operation=pgtrigger.Insert,
                referencing=pgtrigger.Referencing(new="added"),
                func=_TALLY_ROWS.format(sign="", rows="added"),
            ),
            pgtrigger.Trigger(
                name="slots_changed",
                when=pgtrigger.After,
                operation=pgtrigger.Update,
                condition=pgtrigger.AnyChange("needed", "open_slots"),
                func=_TALLY_CHANGE,
            ),
            pgtrigger.Trigger(
                name="slots_removed",
                level=pgtrigger.Statement,
                when=pgtrigger.After,
                operation=pgtrigger.Delete,
                referencing=pgtrigger.Referencing(old="removed"),
                func=_TALLY_ROWS.format(sign="-", rows="removed"),
            ),
        ]

    def __str__(self) -> str:
        return f"comparison {self.pk}"


class Reservation(models.Model):
    """Slots of a comparison that only members of one annotator group fill; a queue of the group's own."""

    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="reservations")
    group = models.ForeignKey(AnnotatorGroup, on_delete=models.PROTECT, related_name="reservations")
    queue_key = models.BigIntegerField()
    needed = models.PositiveSmallIntegerField()
    open_slots = models.PositiveSmallIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["comparison", "group"], name="reservation_once"),
            models.CheckConstraint(
                condition=Q(open_slots__lte=F("needed")), name="reservation_open_slots_within_needed"
            ),
        ]
        indexes = [
            models.Index(
                fields=["group", "queue_key"], condition=Q(open_slots__gt=0), name="reservation_open_queue"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.needed} of comparison {self.comparison_id} for group {self.group_id}"


class Candidate(models.Model):
    """One answer to a comparison's prompt: text or image. `source` never reaches an annotator's browser."""

    comparison = models.ForeignKey(
        Comparison,
        on_delete=models.CASCADE,
        related_name="candidates",
        db_constraint=False,
        db_index=False,  # that of `candidate_position_once` begins with it
    )
    index = models.PositiveSmallIntegerField(help_text="the canonical position, zero-based")
    text = models.JSONField(null=True, blank=True, help_text="a text, or a list of messages")
    image = models.ForeignKey(
        Media, null=True, blank=True, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    source = models.CharField(max_length=200, blank=True, help_text="the model or person that made it")

    class Meta:
        ordering = ["comparison", "index"]
        constraints = [
            models.UniqueConstraint(fields=["comparison", "index"], name="candidate_position_once"),
            models.CheckConstraint(
                condition=Q(text__isnull=True) ^ Q(image__isnull=True), name="candidate_text_or_image"
            ),
        ]
        indexes = [
            models.Index(fields=["image"], condition=Q(image__isnull=False), name="candidate_image"),
        ]
        triggers = refers("comparison_id", table="annotation_candidate", to="annotation_comparison")

    def __str__(self) -> str:
        return f"candidate {self.index} of {self.comparison_id}"
