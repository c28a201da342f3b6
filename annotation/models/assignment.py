"""Known answers, tests before the work, consent, and judgements that were set aside."""

from typing import Any

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from annotation.models.comparisons import Comparison
from annotation.models.jobs import BulkChange
from annotation.models.people import User
from annotation.models.projects import Project


class GoldAnswer(models.Model):
    """The known answer to a comparison, in canonical positions.

    Every key that is given has to be met: `choice`, and in `answers` the template's other keys. A gold
    question is mixed in with the regular ones; one of the qualification test is asked before them.
    """

    class Purpose(models.TextChoices):
        GOLD = "gold", _("gold question")
        QUALIFICATION = "qualification", _("test before the work")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="gold_answers")
    comparison = models.OneToOneField(Comparison, on_delete=models.CASCADE, related_name="gold_answer")
    purpose = models.CharField(max_length=16, choices=Purpose, default=Purpose.GOLD)
    choice = models.JSONField(null=True, help_text='a candidate index, "tie" or "both_bad"; null: not asked')
    answers = models.JSONField(default=dict, help_text="the template's other answers")
    explanation = models.TextField(blank=True, help_text="shown after an answer of the test; Markdown")
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [models.Index(fields=["project", "purpose", "id"], name="gold_answer_of_project")]
        constraints = [
            models.CheckConstraint(
                condition=Q(choice__isnull=False) | ~Q(answers={}), name="gold_answer_says_something"
            )
        ]

    def __str__(self) -> str:
        return f"{self.purpose} answer of comparison {self.comparison_id}"

    @property
    def answer(self) -> dict[str, Any]:
        """All of it, with the keys of a group row's judgement."""
        return ({"choice": self.choice} if self.choice is not None else {}) | self.answers


class QualificationAttempt(models.Model):
    """One go at a project's test."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="qualification_attempts")
    annotator = models.ForeignKey(User, on_delete=models.CASCADE, related_name="qualification_attempts")
    number = models.PositiveSmallIntegerField(help_text="counted from 1")
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    right = models.PositiveSmallIntegerField(default=0)
    total = models.PositiveSmallIntegerField(default=0)
    passed = models.BooleanField(null=True)

    class Meta:
        ordering = ["project", "annotator", "number"]
        constraints = [
            models.UniqueConstraint(fields=["project", "annotator", "number"], name="attempt_number_once"),
            models.UniqueConstraint(
                fields=["project", "annotator"], condition=Q(finished_at=None), name="attempt_one_at_a_time"
            ),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.annotator_id} in {self.project_id}"


class ConsentText(models.Model):
    """What annotators agree to before their first task; a change is a new version, and asked for again."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="consent_texts")
    version = models.PositiveIntegerField()
    text = models.TextField(help_text="Markdown")
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["project", "version"]
        constraints = [models.UniqueConstraint(fields=["project", "version"], name="consent_version_once")]

    def __str__(self) -> str:
        return f"consent text {self.version} of {self.project_id}"


class Consent(models.Model):
    """Who agreed to which version, and when."""

    text = models.ForeignKey(ConsentText, on_delete=models.PROTECT, related_name="consents")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="consents")
    given_at = models.DateTimeField()
    withdrawn_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["text", "user"], name="consent_once")]

    def __str__(self) -> str:
        return f"{self.user_id} to {self.text_id}"


class SetAside(models.Model):
    """Judgements of one annotator that no longer count, and why. Nothing is deleted; it can be reversed."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="set_asides")
    annotator = models.ForeignKey(User, on_delete=models.PROTECT, related_name="set_asides")
    reason = models.CharField(max_length=500)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField()
    count = models.PositiveIntegerField(default=0)
    restored_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    restored_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["project", "-created_at", "-pk"]

    def __str__(self) -> str:
        return f"{self.count} judgements of {self.annotator_id} set aside"

    def unfinished_change(self) -> BulkChange | None:
        """What sets them aside, or brings them back, as long as that goes on."""
        unfinished = BulkChange.objects.filter(project=self.project_id, status__in=BulkChange.UNFINISHED)
        return unfinished.filter(subject__record=self.pk).first()
