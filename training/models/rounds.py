"""Schedules, the rounds that they start, and what rounds promote."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from annotation.models import Project, User
from annotation.models.audit import audited
from annotation.permissions import ProjectRows
from training.models.matches import Match
from training.models.runs import Checkpoint, Run


class ScheduleQuerySet(ProjectRows["Schedule"]):
    pass


class Schedule(models.Model):
    """Starts a round of its plan by itself: after `every_judgements` new judgements, or on a cron line.

    `plan` is a list of steps in order, each an object; `training.services.steps` says what a step can be.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="schedules")
    name = models.CharField(max_length=100)
    every_judgements = models.PositiveIntegerField(null=True, blank=True)
    cron = models.CharField(max_length=100, blank=True)
    plan = models.JSONField()
    enabled = models.BooleanField(default=True)
    judgements_seen = models.PositiveIntegerField(
        default=0, help_text="how many there were at the last firing"
    )
    fired_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[ScheduleQuerySet] = ScheduleQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(every_judgements__isnull=False) ^ ~Q(cron=""), name="schedule_one_trigger"
            )
        ]

    def __str__(self) -> str:
        return self.name


class RoundQuerySet(ProjectRows["Round"]):
    pass


class Round(models.Model):
    """A plan that was started, as it was then; its steps run one after another."""

    class Status(models.TextChoices):
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        STOPPED = (
            "stopped",
            _("stopped"),
        )  # a bar was not cleared or a guardrail was crossed: `error` says why
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="rounds")
    schedule = models.ForeignKey(Schedule, null=True, on_delete=models.SET_NULL, related_name="rounds")
    name = models.CharField(max_length=100)
    number = models.PositiveIntegerField(help_text="1 is the first of its schedule")
    status = models.CharField(max_length=10, choices=Status, default=Status.RUNNING)
    error = models.TextField(blank=True)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[RoundQuerySet] = RoundQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(fields=["schedule", "number"], name="round_once_per_schedule"),
            models.UniqueConstraint(
                fields=["schedule"], condition=Q(status="running"), name="round_one_at_a_time"
            ),
        ]

    def __str__(self) -> str:
        return f"round {self.number} of {self.name}"

    def get_absolute_url(self) -> str:
        return reverse("training:round", args=[self.pk])


class RoundStep(models.Model):
    """One step of a round: what it was asked (`spec`), what works on it, and what came out (`result`)."""

    class Status(models.TextChoices):
        WAITING = "waiting", _("waiting")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        STOPPED = "stopped", _("stopped")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    round = models.ForeignKey(Round, on_delete=models.CASCADE, related_name="steps")
    index = models.PositiveSmallIntegerField()
    kind = models.CharField(max_length=10, help_text="train, score, generate, match or promote")
    spec = models.JSONField()
    status = models.CharField(max_length=10, choices=Status, default=Status.WAITING)
    run = models.OneToOneField(Run, null=True, on_delete=models.PROTECT, related_name="round_step")
    match = models.OneToOneField(Match, null=True, on_delete=models.PROTECT, related_name="round_step")
    result = models.JSONField(default=dict)
    error = models.TextField(blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["round", "index"]
        constraints = [models.UniqueConstraint(fields=["round", "index"], name="step_once_per_round")]

    def __str__(self) -> str:
        return f"step {self.index + 1} of round {self.round_id}"


class PromotionQuerySet(ProjectRows["Promotion"]):
    pass


class Promotion(models.Model):
    """A checkpoint became the project's champion, what others are compared with; the newest row counts."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="promotions")
    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, related_name="promotions")
    step = models.OneToOneField(RoundStep, null=True, on_delete=models.SET_NULL, related_name="promotion")
    evidence = models.JSONField(default=dict, help_text="the win rate and the guardrails that allowed it")
    promoted_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    promoted_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[PromotionQuerySet] = PromotionQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        ordering = ["-pk"]
        triggers = audited("promotion", project="(whole ->> 'project_id')::bigint")

    def __str__(self) -> str:
        return f"promotion of checkpoint {self.checkpoint_id}"
