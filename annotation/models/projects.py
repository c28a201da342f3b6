"""Projects and the part that people have in them."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.urls import reverse

from annotation.models.people import User
from annotation.permissions import ProjectRows, Role


class ProjectQuerySet(ProjectRows["Project"]):
    project_path = ""


class Project(models.Model):
    """One kind of question about one kind of material."""

    class Modality(models.TextChoices):
        TEXT = "text"
        IMAGE = "image"

    name = models.CharField(max_length=200)
    modality = models.CharField(max_length=8, choices=Modality)
    guidelines = models.TextField(blank=True, help_text="Markdown, shown beside the work.")
    questions = models.JSONField()  # the task template, checked by annotation.template
    template_version = models.PositiveIntegerField(default=1)
    labels_per_comparison = models.PositiveSmallIntegerField(default=1)
    lease_minutes = models.PositiveSmallIntegerField(default=20)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[ProjectQuerySet] = ProjectQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(labels_per_comparison__gte=1), name="project_asks_somebody"),
            models.CheckConstraint(
                condition=Q(modality__in=["text", "image"]), name="project_modality_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("annotation:project", args=[self.pk])


class TemplateVersion(models.Model):
    """A task template as it once was, so that what was answered under it can be read."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="template_versions")
    version = models.PositiveIntegerField()
    questions = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["project", "version"]
        constraints = [models.UniqueConstraint(fields=["project", "version"], name="template_version_once")]

    def __str__(self) -> str:
        return f"template {self.version} of {self.project_id}"


class Member(models.Model):
    """A user's role in a project, and how far the queue is behind them (`frontier`, a comparison's rank)."""

    Role = Role

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="members")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role, default=Role.ANNOTATOR)
    frontier = models.BigIntegerField(default=0)
    joined_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="member_once"),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="member_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} in {self.project_id} ({self.role})"
