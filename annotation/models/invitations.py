"""Invitations into projects. There is no other way to an account but by a manager of the site."""

from datetime import datetime
from typing import ClassVar

from django.db import models
from django.db.models import F, Q

from annotation.models.people import User
from annotation.models.projects import Project
from annotation.permissions import ALLOWED, Action, ProjectRows, Role


class InvitationQuerySet(ProjectRows["Invitation"]):
    def standing(self, *, now: datetime) -> "InvitationQuerySet":
        """Those that still open a door: unused, not expired, and whoever made them may still invite."""
        inviter = Q(project__members__user=F("created_by"), project__members__role__in=ALLOWED[Action.PEOPLE])
        return self.filter(inviter, used_at=None, expires_at__gt=now)


class Invitation(models.Model):
    """A link that lets one person into a project, once and within some days; only its digest is stored."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(max_length=16, choices=Role)
    digest = models.CharField(max_length=64, unique=True)
    note = models.CharField(max_length=100, blank=True, help_text="whom it is for")
    created_by = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True, blank=True)
    used_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")

    objects: ClassVar[InvitationQuerySet] = InvitationQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(role__in=Role.values), name="invitation_role_known")
        ]

    def __str__(self) -> str:
        return f"invitation {self.pk}"
