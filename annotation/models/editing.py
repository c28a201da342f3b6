"""What was changed by hand, and why."""

from django.db import models

from annotation.models.judgements import Judgement
from annotation.models.people import User


class JudgementChange(models.Model):
    """A judgement that a manager corrected: what it said before, who changed it, and the reason."""

    judgement = models.ForeignKey(Judgement, on_delete=models.CASCADE, related_name="changes")
    before = models.JSONField(help_text="choice, strength and the other answers, canonical")
    reason = models.CharField(max_length=500)
    changed_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")
    changed_at = models.DateTimeField()

    class Meta:
        ordering = ["judgement", "changed_at", "pk"]

    def __str__(self) -> str:
        return f"change of judgement {self.judgement_id}"
