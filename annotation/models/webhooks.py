"""Addresses of other systems that are told what happens in a project, and what they were told."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from annotation.models.people import User
from annotation.models.projects import Project
from annotation.permissions import ProjectRows


class WebhookQuerySet(ProjectRows["Webhook"]):
    pass


class Webhook(models.Model):
    """An address that gets a signed message for each event. After a rotation both secrets sign for a day."""

    class Event(models.TextChoices):
        JUDGEMENT_CREATED = "judgement.created", _("a judgement was given")
        COMPARISON_COMPLETED = "comparison.completed", _("a comparison has all its judgements")
        IMPORT_FINISHED = "import.finished", _("an import has ended")
        EXPORT_FINISHED = "export.finished", _("an export has ended")
        RUN_FINISHED = "run.finished", _("a run has ended")
        TEST = "test", _("a trial message")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="webhooks")
    url = models.URLField(max_length=500)
    events = models.JSONField(default=list)
    secret = models.CharField(max_length=64)
    old_secret = models.CharField(max_length=64, blank=True)
    rotated_at = models.DateTimeField(null=True, blank=True)
    is_active = models.BooleanField(default=True)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[WebhookQuerySet] = WebhookQuerySet.as_manager()  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.url


class WebhookDelivery(models.Model):
    """One message to one address: sent until it is accepted, or given up."""

    class Status(models.TextChoices):
        WAITING = "waiting", _("waiting")
        DELIVERED = "delivered", _("delivered")
        FAILED = "failed", _("given up")

    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=32)
    payload = models.JSONField()
    status = models.CharField(max_length=9, choices=Status, default=Status.WAITING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField(help_text="not sent before")
    answer = models.CharField(max_length=300, blank=True, help_text="the last reply, or why there was none")
    created_at = models.DateTimeField()
    delivered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["next_at"], condition=Q(status="waiting"), name="webhook_delivery_due"),
            models.Index(fields=["webhook", "-id"], name="webhook_delivery_log"),
        ]

    def __str__(self) -> str:
        return f"{self.event} to {self.webhook_id}"
