"""Projects and the part that people have in them."""

from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from annotation.models.audit import audited
from annotation.models.people import User
from annotation.models.references import referred
from annotation.permissions import ProjectRows, Role

# What moves with every comparison and answer of a member: no change that anybody decided.
COUNTERS = ("frontier", "served", "answered", "answered_on", "answered_that_day")


class ProjectQuerySet(ProjectRows["Project"]):
    project_path = ""


class QueueStrategy(models.TextChoices):
    """What comes first. Each is a way to compute `queue_key`; see `annotation.services.strategies`."""

    ORDER = "order", _("In the order of import")
    FEWEST = "fewest", _("Fewest judgements first")
    RANDOM = "random", _("In random order")
    PRIORITY = "priority", _("By priority, highest first")


class Project(models.Model):
    """One kind of question about one kind of material."""

    class Modality(models.TextChoices):
        TEXT = "text", _("Texts")
        IMAGE = "image", _("Pictures")

    name = models.CharField(max_length=200)
    modality = models.CharField(max_length=8, choices=Modality)
    guidelines = models.TextField(blank=True, help_text="Markdown, shown beside the work.")
    questions = models.JSONField()  # the task template, checked by annotation.template
    template_version = models.PositiveIntegerField(default=1)
    labels_per_comparison = models.PositiveSmallIntegerField(default=1)
    show_suggestions = models.BooleanField(
        default=False, help_text="annotators see what models said about a comparison"
    )
    lease_minutes = models.PositiveSmallIntegerField(default=20)
    queue_strategy = models.CharField(max_length=8, choices=QueueStrategy, default=QueueStrategy.ORDER)
    quota = models.PositiveIntegerField(
        null=True, blank=True, help_text="answers of one member at most; none: no limit"
    )
    daily_cap = models.PositiveIntegerField(null=True, blank=True, help_text="the same, for one day")
    gold_rate = models.FloatField(default=0.0, help_text="share of what is shown that has a known answer")
    repeat_rate = models.FloatField(default=0.0, help_text="share of what is shown that they judged before")
    repeat_distance = models.PositiveIntegerField(
        default=20, help_text="own answers between a comparison and its repeat, at least"
    )
    pass_mark = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0.0), MaxValueValidator(1.0)],
        help_text="share of right answers in the test before the first work; none: no test",
    )
    test_attempts = models.PositiveSmallIntegerField(default=1, validators=[MinValueValidator(1)])
    consent_version = models.PositiveIntegerField(default=0, help_text="of the text to agree to; 0: none")
    skip_reasons = models.JSONField(default=list, blank=True, help_text="texts to choose from when skipping")
    review_overrules = models.BooleanField(
        default=True, help_text="a reviewer's answer takes the place of the annotators' in what is learned"
    )
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[ProjectQuerySet] = ProjectQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(labels_per_comparison__gte=1), name="project_asks_somebody"),
            models.CheckConstraint(
                condition=Q(modality__in=["text", "image"]), name="project_modality_known"
            ),
            models.CheckConstraint(
                condition=Q(gold_rate__gte=0, repeat_rate__gte=0, gold_rate__lte=0.5 - F("repeat_rate")),
                name="project_checks_at_most_half",
            ),
            models.CheckConstraint(
                condition=Q(pass_mark=None) | Q(pass_mark__range=(0, 1)), name="project_pass_mark_is_a_share"
            ),
            models.CheckConstraint(
                condition=Q(queue_strategy__in=QueueStrategy.values), name="project_queue_strategy_known"
            ),
        ]
        triggers = [
            *audited("project", project="(whole ->> 'id')::bigint"),
            referred("project_id", table="annotation_comparison", to="annotation_project"),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("annotation:project", args=[self.pk])

    @property
    def has_checks(self) -> bool:
        """Whether gold questions or repeats are mixed in, so that nothing may tell them from the others."""
        return self.gold_rate + self.repeat_rate > 0


class AnnotatorGroup(models.Model):
    """Members with something in common: a language, an expertise, a way they came here."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="annotator_groups")
    name = models.CharField(max_length=100)
    attributes = models.JSONField(default=dict, blank=True, help_text='such as {"language": "de"}')
    reserved_labels = models.PositiveSmallIntegerField(
        default=0, help_text="of each comparison's judgements, how many only this group gives"
    )

    class Meta:
        ordering = ["project", "name"]
        constraints = [models.UniqueConstraint(fields=["project", "name"], name="annotator_group_name_once")]

    def __str__(self) -> str:
        return self.name


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
    """A user's role in a project, and how far the queue is behind them (`frontier`, a `queue_key`)."""

    Role = Role

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="members")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role, default=Role.ANNOTATOR)
    frontier = models.BigIntegerField(default=0)
    group = models.ForeignKey(
        AnnotatorGroup, null=True, blank=True, on_delete=models.SET_NULL, related_name="members"
    )
    served = models.PositiveIntegerField(default=0, help_text="comparisons handed out, of every kind")
    answered = models.PositiveIntegerField(default=0, help_text="answers given and not taken back")
    answered_on = models.DateField(null=True, blank=True, help_text="the last day with an answer")
    answered_that_day = models.PositiveIntegerField(default=0)
    quota = models.PositiveIntegerField(
        null=True, blank=True, help_text="answers at most; none: as the project says"
    )
    daily_cap = models.PositiveIntegerField(null=True, blank=True, help_text="the same, for one day")
    qualified_at = models.DateTimeField(null=True, blank=True, help_text="the test passed, or excused from")
    consented_version = models.PositiveIntegerField(default=0)
    paused_at = models.DateTimeField(null=True, blank=True)
    paused_reason = models.CharField(max_length=500, blank=True)
    withdrawn_at = models.DateTimeField(null=True, blank=True, help_text="by the person alone")
    joined_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="member_once"),
            models.CheckConstraint(condition=Q(role__in=Role.values), name="member_role_known"),
        ]
        triggers = audited("member", project="(whole ->> 'project_id')::bigint", ignored=COUNTERS)

    def __str__(self) -> str:
        return f"{self.user_id} in {self.project_id} ({self.role})"
