"""Who signs in: users, their API tokens, and wrong passwords that still count."""

from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from annotation.permissions import Scope, SiteRole


class User(AbstractUser):
    """A person or a script. Managers may create projects; annotators only see projects they belong to."""

    Role = SiteRole
    token: "ApiToken | None" = None  # what they came with, if it was a token; it limits what they may do

    role = models.CharField(max_length=16, choices=Role, default=Role.ANNOTATOR)
    keys = models.JSONField(default=dict, blank=True, help_text="keys of the judging page that were moved")

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(role__in=SiteRole.values), name="user_role_known")]

    @property
    def is_manager(self) -> bool:
        return self.role == self.Role.MANAGER


class ApiToken(models.Model):
    """A key for the HTTP API; only its SHA-256 is stored. It may do less than its user, never more."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    digest = models.CharField(max_length=64, unique=True)
    name = models.CharField(max_length=100, blank=True, help_text="what it is for")
    scopes = ArrayField(models.CharField(max_length=8, choices=Scope), default=Scope.all)
    project = models.ForeignKey(
        "Project",
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="+",
        help_text="only this one",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, help_text="to the minute")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(scopes__contained_by=Scope.values), name="api_token_scopes_known"
            )
        ]

    def __str__(self) -> str:
        return f"token of {self.user_id}"


class FailedSignIn(models.Model):
    """A wrong password. Whose and from where is kept as a keyed digest, and only as long as it counts."""

    key = models.CharField(max_length=64)
    created_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["key", "created_at"], name="failed_sign_in_recent")]

    def __str__(self) -> str:
        return f"failed sign-in at {self.created_at}"
