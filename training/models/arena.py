"""The arena: people ask two models without knowing which, and say whose answer is better."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from annotation.models import Lease, Project, User
from annotation.permissions import ProjectRows
from training.models.runs import BaseModel, Checkpoint, Run


class ArenaQuerySet(ProjectRows["Arena"]):
    pass


class Arena(models.Model):
    """A project's arena: its models answer while it is open. `config` is that of their generation runs."""

    project = models.OneToOneField(Project, on_delete=models.CASCADE, related_name="arena")
    is_open = models.BooleanField(default=True)
    config = models.JSONField(default=dict)
    managed_by = models.ForeignKey(
        User, on_delete=models.PROTECT, related_name="+", help_text="in whose name the models are run"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[ArenaQuerySet] = ArenaQuerySet.as_manager()  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"arena of project {self.project_id}"

    def get_absolute_url(self) -> str:
        return reverse("training:arena", args=[self.project_id])


class Contender(models.Model):
    """A model that answers in an arena; one that left keeps its row, for what was said about it."""

    arena = models.ForeignKey(Arena, on_delete=models.CASCADE, related_name="contenders")
    base = models.ForeignKey(BaseModel, null=True, on_delete=models.PROTECT, related_name="+")
    base_checkpoint = models.ForeignKey(Checkpoint, null=True, on_delete=models.PROTECT, related_name="+")
    is_active = models.BooleanField(default=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(base__isnull=False) ^ Q(base_checkpoint__isnull=False), name="contender_one_model"
            ),
            models.UniqueConstraint(fields=["arena", "base"], name="contender_base_once"),
            models.UniqueConstraint(fields=["arena", "base_checkpoint"], name="contender_checkpoint_once"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """As runs name it: `demo-text` or `checkpoint:12`."""
        return self.base.name if self.base is not None else f"checkpoint:{self.base_checkpoint_id}"


class DuelQuerySet(ProjectRows["Duel"]):
    project_path = "arena__project"

    def judged(self) -> "DuelQuerySet":
        """Those whose judgement stands."""
        return self.filter(
            lease__judgement__isnull=False,
            lease__judgement__undone_at=None,
            lease__judgement__set_aside_at=None,
        )


class Duel(models.Model):
    """What one person asked two models. While nobody has judged, only `lease` may be shown of the answers.

    generating → ready | failed; a further turn goes back to generating. `lease` is of the comparison that the
    newest answers became, whose candidate `left_index` is the left model's.
    """

    class Status(models.TextChoices):
        GENERATING = "generating", _("generating")
        READY = "ready", _("ready")
        FAILED = "failed", _("failed")
        ABANDONED = "abandoned", _("abandoned")

    arena = models.ForeignKey(Arena, on_delete=models.CASCADE, related_name="duels")
    asker = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    left = models.ForeignKey(Contender, on_delete=models.PROTECT, related_name="+")
    right = models.ForeignKey(Contender, on_delete=models.PROTECT, related_name="+")
    left_index = models.PositiveSmallIntegerField()
    status = models.CharField(max_length=10, choices=Status, default=Status.GENERATING)
    lease = models.OneToOneField(Lease, null=True, on_delete=models.SET_NULL, related_name="duel")
    created_at = models.DateTimeField()

    objects: ClassVar[DuelQuerySet] = DuelQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(condition=~Q(left=models.F("right")), name="duel_of_two"),
            models.CheckConstraint(condition=Q(left_index__lte=1), name="duel_left_index"),
        ]
        indexes = [
            models.Index(fields=["arena", "asker", "-created_at"], name="duel_of_asker"),
            models.Index(fields=["status"], condition=Q(status="generating"), name="duel_generating"),
        ]

    def __str__(self) -> str:
        return f"duel {self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("training:duel", args=[self.pk])


class DuelTurn(models.Model):
    """A message to both models, the runs that answer it, and once these are done the texts."""

    duel = models.ForeignKey(Duel, on_delete=models.CASCADE, related_name="turns")
    number = models.PositiveSmallIntegerField()
    message = models.TextField()
    left_run = models.OneToOneField(Run, on_delete=models.PROTECT, related_name="left_of_turn")
    right_run = models.OneToOneField(Run, on_delete=models.PROTECT, related_name="right_of_turn")
    left_answer = models.TextField(null=True)
    right_answer = models.TextField(null=True)

    class Meta:
        ordering = ["duel", "number"]
        constraints = [models.UniqueConstraint(fields=["duel", "number"], name="turn_once_per_duel")]

    def __str__(self) -> str:
        return f"turn {self.number + 1} of duel {self.duel_id}"
