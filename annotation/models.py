"""What people judge and what they said: rows, constraints, and every read that others chain on.

The unit is the comparison: one prompt and its candidates (a *group*), shown to `needed` annotators.
A slot of a comparison is open, leased or judged; the unique constraints on `Lease` guarantee that no
slot and no annotator is counted twice, whatever the services do.
"""

import uuid
from datetime import datetime
from typing import ClassVar

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import F, Q
from django.urls import reverse


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


class ProjectQuerySet(models.QuerySet["Project"]):
    def visible_to(self, user: User) -> "ProjectQuerySet":
        return self.filter(members__user=user)

    def managed_by(self, user: User) -> "ProjectQuerySet":
        return self.filter(members__user=user, members__role=Member.Role.MANAGER)


class Project(models.Model):
    """One kind of question about one kind of material."""

    class Modality(models.TextChoices):
        TEXT = "text"
        IMAGE = "image"

    name = models.CharField(max_length=200)
    modality = models.CharField(max_length=8, choices=Modality)
    guidelines = models.TextField(blank=True, help_text="Markdown, shown beside the work.")
    questions = models.JSONField()  # the task template, validated by annotation.questions
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


class Member(models.Model):
    """A user's role in a project, and how far the queue is behind them (`frontier`, a comparison's rank)."""

    class Role(models.TextChoices):
        MANAGER = "manager"
        ANNOTATOR = "annotator"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="members")
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role, default=Role.ANNOTATOR)
    frontier = models.BigIntegerField(default=0)
    joined_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="member_once"),
            models.CheckConstraint(condition=Q(role__in=["manager", "annotator"]), name="member_role_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} in {self.project_id} ({self.role})"


class Media(models.Model):
    """A re-encoded image in the storage, named by the SHA-256 of its bytes."""

    sha256 = models.CharField(max_length=64, unique=True)
    storage_key = models.CharField(max_length=200)
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    size = models.PositiveIntegerField(help_text="bytes")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.storage_key


class ComparisonQuerySet(models.QuerySet["Comparison"]):
    def visible_to(self, user: User) -> "ComparisonQuerySet":
        return self.filter(project__members__user=user)

    def open(self) -> "ComparisonQuerySet":
        return self.filter(open_slots__gt=0)


class Comparison(models.Model):
    """A prompt whose candidates `needed` people judge. `rank` orders the queue within the project."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="comparisons")
    rank = models.BigIntegerField()
    prompt = models.JSONField(help_text="a text, or a list of {role, content} messages")
    prompt_key = models.CharField(
        max_length=64, help_text="SHA-256 of the prompt; splits keep equal prompts together"
    )
    content_key = models.CharField(
        max_length=64, blank=True, help_text="SHA-256 of the prompt and its candidates"
    )
    held_out = models.BooleanField(
        default=False, help_text="for evaluation only: never part of a training snapshot"
    )
    needed = models.PositiveSmallIntegerField()
    open_slots = models.PositiveSmallIntegerField()
    reference = models.JSONField(null=True, blank=True, help_text="a known good answer, from the file")
    meta = models.JSONField(default=dict)
    import_job = models.ForeignKey(
        "ImportJob", null=True, blank=True, on_delete=models.SET_NULL, related_name="comparisons"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[ComparisonQuerySet] = ComparisonQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "rank"], name="comparison_rank_once"),
            models.CheckConstraint(
                condition=Q(open_slots__lte=F("needed")), name="comparison_open_slots_within_needed"
            ),
        ]
        indexes = [
            models.Index(
                fields=["project", "rank"], condition=Q(open_slots__gt=0), name="comparison_open_queue"
            ),
            models.Index(fields=["project", "prompt_key"], name="comparison_prompt"),
        ]

    def __str__(self) -> str:
        return f"comparison {self.pk}"


class Candidate(models.Model):
    """One answer to a comparison's prompt: text or image. `source` never reaches an annotator's browser."""

    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="candidates")
    index = models.PositiveSmallIntegerField(help_text="the canonical position, zero-based")
    text = models.JSONField(null=True, blank=True, help_text="a text, or a list of messages")
    image = models.ForeignKey(Media, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    source = models.CharField(max_length=200, blank=True, help_text="the model or person that made it")

    class Meta:
        ordering = ["comparison", "index"]
        constraints = [
            models.UniqueConstraint(fields=["comparison", "index"], name="candidate_position_once"),
            models.CheckConstraint(
                condition=Q(text__isnull=True) ^ Q(image__isnull=True), name="candidate_text_or_image"
            ),
        ]

    def __str__(self) -> str:
        return f"candidate {self.index} of {self.comparison_id}"


class LeaseQuerySet(models.QuerySet["Lease"]):
    def live(self) -> "LeaseQuerySet":
        return self.filter(state__in=Lease.LIVE)

    def open_of(self, *, project: int, annotator: int) -> "LeaseQuerySet":
        """What this person holds in this project, oldest first, with the comparisons."""
        mine = self.filter(state=Lease.State.OPEN, annotator=annotator, comparison__project=project)
        return mine.select_related("comparison").order_by("created_at", "pk")

    def lapsed(self, *, now: datetime) -> "LeaseQuerySet":
        return self.filter(state=Lease.State.OPEN, expires_at__lt=now)

    def to_present(self) -> "LeaseQuerySet":
        """With all that `annotation.services.present` reads."""
        return self.select_related("comparison__project").prefetch_related("comparison__candidates__image")


class Lease(models.Model):
    """One slot of a comparison in one person's hands, with the order that they see (a permutation)."""

    class State(models.TextChoices):
        OPEN = "open"
        JUDGED = "judged"
        SKIPPED = "skipped"
        EXPIRED = "expired"
        UNDONE = "undone"

    LIVE = (State.OPEN, State.JUDGED)
    HAD = (State.OPEN, State.JUDGED, State.SKIPPED)  # the comparison does not come to this person again

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="leases")
    annotator = models.ForeignKey(User, on_delete=models.PROTECT, related_name="leases")
    slot = models.PositiveSmallIntegerField()
    order = models.JSONField(help_text="candidate indices as shown, left to right")
    state = models.CharField(max_length=8, choices=State, default=State.OPEN)
    skip_reason = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    closed_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[LeaseQuerySet] = LeaseQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["comparison", "annotator"],
                condition=Q(state__in=["open", "judged"]),
                name="lease_one_each",
            ),
            models.UniqueConstraint(
                fields=["comparison", "slot"],
                condition=Q(state__in=["open", "judged"]),
                name="lease_slot_once",
            ),
        ]
        indexes = [
            models.Index(fields=["expires_at"], condition=Q(state="open"), name="lease_expiry"),
            models.Index(
                fields=["annotator", "created_at"], condition=Q(state="open"), name="lease_open_of_annotator"
            ),
            models.Index(
                fields=["comparison", "annotator"],
                condition=Q(state__in=["open", "judged", "skipped"]),
                name="lease_had",
            ),
        ]

    def __str__(self) -> str:
        return f"lease {self.id}"


class JudgementQuerySet(models.QuerySet["Judgement"]):
    def visible_to(self, user: User) -> "JudgementQuerySet":
        return self.filter(comparison__project__members__user=user)

    def standing(self) -> "JudgementQuerySet":
        """Those that were not taken back."""
        return self.filter(undone_at=None)

    def standing_at(self, moment: datetime) -> "JudgementQuerySet":
        """Those that stood at that moment, whatever happened later."""
        return self.filter(Q(undone_at=None) | Q(undone_at__gte=moment), created_at__lt=moment)


class Judgement(models.Model):
    """One person's answer. `choice`, `strength` and `answers` are canonical; `order` says what was shown."""

    class Kind(models.TextChoices):
        REGULAR = "regular"
        GOLD = "gold"
        REPEAT = "repeat"
        REVIEW = "review"
        QUALIFICATION = "qualification"
        JUDGE = "judge"

    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="judgements")
    annotator = models.ForeignKey(User, on_delete=models.PROTECT, related_name="judgements")
    lease = models.OneToOneField(
        Lease, null=True, blank=True, on_delete=models.PROTECT, related_name="judgement"
    )
    kind = models.CharField(max_length=16, choices=Kind, default=Kind.REGULAR)
    order = models.JSONField(null=True, help_text="as shown; unknown for some imported judgements")
    choice = models.JSONField(null=True, help_text='a candidate index, "tie" or "both_bad"')
    strength = models.PositiveSmallIntegerField(null=True, blank=True)
    answers = models.JSONField(default=dict, help_text="the template's other answers")
    template_version = models.PositiveIntegerField()
    seconds = models.FloatField(
        null=True, blank=True, help_text="from the lease's first display to the answer"
    )
    created_at = models.DateTimeField()
    undone_at = models.DateTimeField(null=True, blank=True)
    # A repeated request gets the same reply.
    client_id = models.UUIDField()
    request_digest = models.CharField(max_length=64)
    wanted_next = models.BooleanField(default=False)
    next_lease = models.ForeignKey(Lease, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")
    next_expires_at = models.DateTimeField(
        null=True, blank=True, help_text="of the next lease, as it was told"
    )

    objects: ClassVar[JudgementQuerySet] = JudgementQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["annotator", "client_id"], name="judgement_client_id_once"),
            models.UniqueConstraint(
                fields=["comparison", "annotator", "kind"],
                condition=Q(undone_at=None),
                name="judgement_one_each",
            ),
            models.CheckConstraint(
                condition=Q(strength=None) | Q(strength__range=(1, 3)), name="judgement_strength_1_to_3"
            ),
        ]
        indexes = [
            models.Index(fields=["annotator", "-created_at"], name="judgement_history"),
            models.Index(fields=["created_at"], name="judgement_cutoff"),
        ]

    def __str__(self) -> str:
        return f"judgement {self.pk}"


class Job(models.Model):
    """A file on its way in or out, worked on by a light task."""

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="%(class)ss")
    format = models.CharField(max_length=32)
    status = models.CharField(max_length=8, choices=Status, default=Status.QUEUED)
    storage_key = models.CharField(max_length=200, blank=True)
    file_name = models.CharField(max_length=200, blank=True)
    error = models.TextField(blank=True)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    touched_at = models.DateTimeField(auto_now_add=True, help_text="the last sign of life")
    attempts = models.PositiveSmallIntegerField(default=0, help_text="starts since it last got any further")
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True

    UNFINISHED = (Status.QUEUED, Status.RUNNING)


class ImportJob(Job):
    """A file of groups that becomes comparisons; every rejected row is kept with its reason."""

    held_out = models.BooleanField(default=False, help_text="its comparisons are for evaluation only")
    accepted = models.PositiveIntegerField(default=0)
    rejected = models.PositiveIntegerField(default=0)
    duplicates = models.PositiveIntegerField(
        default=0, help_text="accepted rows that equal another of this file"
    )
    # How far it is; committed together with the rows before it, so that a second attempt goes on from there.
    position = models.BigIntegerField(default=0, help_text="bytes of the (unpacked) rows that are done")
    line = models.PositiveIntegerField(default=0, help_text="lines that are done")

    def __str__(self) -> str:
        return f"import {self.pk}"


class RejectedRow(models.Model):
    job = models.ForeignKey(ImportJob, on_delete=models.CASCADE, related_name="rejected_rows")
    line = models.PositiveIntegerField(help_text="one-based")
    field = models.CharField(max_length=100, blank=True)
    reason = models.CharField(max_length=500)

    class Meta:
        ordering = ["job", "line", "pk"]

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


class ExportJob(Job):
    """A file that a worker writes once and members of the project download."""

    filters = models.JSONField(default=dict)
    rows = models.PositiveIntegerField(default=0)
    left_out = models.JSONField(default=dict, help_text="what the format cannot hold, counted by reason")

    def __str__(self) -> str:
        return f"export {self.pk}"
