"""What is counted of the judgements, kept up to date as they arrive: see `annotation.services.counting`."""

from django.db import models
from django.db.models import Q

from annotation.models.comparisons import Comparison
from annotation.models.projects import Project


class QualityCursor(models.Model):
    """How far the judgements of the whole site are counted; one row.

    Numbers are given out before transactions end, so a lower number may appear after a higher one was seen.
    Up to `settled` that is over. Up to `seen` there were `seen_rows`; once every transaction older than
    `horizon` has ended, the rows between are counted once more to see whether some came late.
    """

    settled = models.BigIntegerField(default=0)
    seen = models.BigIntegerField(default=0)
    seen_rows = models.BigIntegerField(default=0)
    horizon = models.BigIntegerField(default=0, help_text="a transaction number")

    def __str__(self) -> str:
        return f"counted to {self.seen}"


class QualityStale(models.Model):
    """A comparison to count again, because something about it changed that was there before.

    Written in the transaction of the change: an answer taken back, set aside, edited; a new right answer.
    """

    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="+")

    def __str__(self) -> str:
        return f"count {self.comparison_id} again"


class QualityUnit(models.Model):
    """What a comparison was counted as (`annotation.quality.votes.Unit`), to take it away when it changes."""

    comparison = models.OneToOneField(
        Comparison, on_delete=models.CASCADE, primary_key=True, related_name="quality_unit"
    )
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="quality_units")
    facts = models.JSONField()
    disputed = models.BooleanField(
        default=False, help_text="fully judged by people who say different things, and no reviewer decided"
    )

    class Meta:
        indexes = [
            models.Index(
                fields=["project", "comparison"], condition=Q(disputed=True), name="quality_unit_disputed"
            )
        ]

    def __str__(self) -> str:
        return f"counted {self.comparison_id}"


class QualityCount(models.Model):
    """A sum over a project's comparisons; keys as in `annotation.quality.counts.contributions`."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="quality_counts")
    topic = models.CharField(max_length=16)
    key = models.TextField(help_text="the rest of the key, as JSON")
    n = models.FloatField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "topic", "key"], name="quality_count_once")]

    def __str__(self) -> str:
        return f"{self.topic} {self.key}: {self.n}"


class SourceResult(models.Model):
    """How often two sources met and it ended so; keys as in `annotation.quality.counts.source_results`."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="source_results")
    key = models.TextField(help_text="as JSON")
    sums = models.BinaryField(help_text="float32: as counted, then in each replicate of the bootstrap")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "key"], name="source_result_once")]

    def __str__(self) -> str:
        return self.key


class QualityReport(models.Model):
    """What the pages show of a project: `summary` from the counts, `fits` from iterative models.

    The summary is made anew whenever something was counted, the fits in the background once enough has
    changed since; each says as of when it is.
    """

    project = models.OneToOneField(
        Project, on_delete=models.CASCADE, primary_key=True, related_name="quality_report"
    )
    changes = models.BigIntegerField(default=0, help_text="comparisons counted, also again")
    summary = models.JSONField(null=True)
    summary_changes = models.BigIntegerField(default=0, help_text="`changes` as the summary saw them")
    summary_at = models.DateTimeField(null=True)
    fits = models.JSONField(null=True)
    fits_changes = models.BigIntegerField(default=0, help_text="`changes` as the fits saw them")
    fits_at = models.DateTimeField(null=True)
    fitting_since = models.DateTimeField(null=True, help_text="when the fit that is going on began")
    progress = models.FloatField(default=0, help_text="of that fit, 0 to 1")

    def __str__(self) -> str:
        return f"quality of {self.project_id}"
