"""Blind comparisons of two models."""

from typing import ClassVar

from django.db import models
from django.db.models import F, Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from annotation.models import Comparison, Project, User
from annotation.permissions import ProjectRows
from training.models.runs import Run


class MatchQuerySet(ProjectRows["Match"]):
    pass


class Match(models.Model):
    """A blind comparison of two models on held-out prompts: two generations, then people's comparisons."""

    class Status(models.TextChoices):
        GENERATING = "generating", _("generating")
        JUDGING = "judging", _("judging")
        FAILED = "failed", _("failed")

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="matches")
    left_run = models.ForeignKey(
        Run, on_delete=models.PROTECT, related_name="+", help_text="generates the left model's"
    )
    right_run = models.ForeignKey(Run, on_delete=models.PROTECT, related_name="+")
    prompts = models.PositiveIntegerField(help_text="how many prompts were asked for")
    identical = models.PositiveIntegerField(
        default=0, help_text="pairs that nobody need see: both wrote the same"
    )
    status = models.CharField(max_length=10, choices=Status, default=Status.GENERATING)
    error = models.TextField(blank=True)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[MatchQuerySet] = MatchQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [models.CheckConstraint(condition=~Q(left_run=F("right_run")), name="match_of_two")]

    def __str__(self) -> str:
        return f"match {self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("training:match", args=[self.pk])


class MatchComparison(models.Model):
    """Which candidate of a comparison the left model wrote. Nothing in `annotation` knows this."""

    match = models.ForeignKey(Match, on_delete=models.CASCADE, related_name="comparisons")
    comparison = models.OneToOneField(Comparison, on_delete=models.CASCADE, related_name="+")
    left_index = models.PositiveSmallIntegerField()

    def __str__(self) -> str:
        return f"comparison {self.comparison_id} of match {self.match_id}"
