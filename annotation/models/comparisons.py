"""What is compared: a prompt and its candidates (a *group*), shown to `needed` annotators."""

from typing import ClassVar

from django.db import models
from django.db.models import F, Q

from annotation.models.projects import Project
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


class ComparisonQuerySet(ProjectRows["Comparison"]):
    def open(self) -> "ComparisonQuerySet":
        return self.filter(open_slots__gt=0)


class Comparison(models.Model):
    """A prompt whose candidates `needed` people judge. `rank` orders the queue within the project."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="comparisons")
    rank = models.BigIntegerField()
    prompt = models.JSONField(help_text="a text, or a list of {role, content} messages")
    prompt_key = models.CharField(
        max_length=64, help_text="SHA-256 of the prompt; splits keep equal prompts together"
    )
    content_key = models.CharField(
        max_length=64, blank=True, help_text="SHA-256 of the prompt and its candidates"
    )
    held_out = models.BooleanField(
        default=False, help_text="for evaluation only: never part of a training snapshot"
    )
    needed = models.PositiveSmallIntegerField()
    open_slots = models.PositiveSmallIntegerField()
    reference = models.JSONField(null=True, blank=True, help_text="a known good answer, from the file")
    meta = models.JSONField(default=dict)
    import_job = models.ForeignKey(
        "ImportJob", null=True, blank=True, on_delete=models.SET_NULL, related_name="comparisons"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[ComparisonQuerySet] = ComparisonQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "rank"], name="comparison_rank_once"),
            models.CheckConstraint(
                condition=Q(open_slots__lte=F("needed")), name="comparison_open_slots_within_needed"
            ),
        ]
        indexes = [
            models.Index(
                fields=["project", "rank"], condition=Q(open_slots__gt=0), name="comparison_open_queue"
            ),
            models.Index(fields=["project", "prompt_key"], name="comparison_prompt"),
        ]

    def __str__(self) -> str:
        return f"comparison {self.pk}"


class Candidate(models.Model):
    """One answer to a comparison's prompt: text or image. `source` never reaches an annotator's browser."""

    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="candidates")
    index = models.PositiveSmallIntegerField(help_text="the canonical position, zero-based")
    text = models.JSONField(null=True, blank=True, help_text="a text, or a list of messages")
    image = models.ForeignKey(Media, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    source = models.CharField(max_length=200, blank=True, help_text="the model or person that made it")

    class Meta:
        ordering = ["comparison", "index"]
        constraints = [
            models.UniqueConstraint(fields=["comparison", "index"], name="candidate_position_once"),
            models.CheckConstraint(
                condition=Q(text__isnull=True) ^ Q(image__isnull=True), name="candidate_text_or_image"
            ),
        ]

    def __str__(self) -> str:
        return f"candidate {self.index} of {self.comparison_id}"
