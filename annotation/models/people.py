"""Who signs in: users, their API tokens, and wrong passwords that still count."""

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import Q


class User(AbstractUser):
    """A person or a script. Managers may create projects; annotators only see projects they belong to."""

    class Role(models.TextChoices):
        MANAGER = "manager"
        ANNOTATOR = "annotator"

    role = models.CharField(max_length=16, choices=Role, default=Role.ANNOTATOR)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(role__in=["manager", "annotator"]), name="user_role_known")
        ]

    @property
    def is_manager(self) -> bool:
        return self.role == self.Role.MANAGER


class ApiToken(models.Model):
    """A key for the HTTP API; only its SHA-256 is stored."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    digest = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)

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
