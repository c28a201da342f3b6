"""Models, snapshots, runs, checkpoints. Postgres holds the truth about every run."""

from datetime import datetime, timedelta
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from annotation.models import Project, User
from annotation.models.audit import audited
from annotation.permissions import ProjectRows
from training.tuning.registry import METHODS

GENERATORS = ("generate", "image_generate")
JOBS = [method.name for method in METHODS if method.purpose == "job"]  # their results are no models


class BaseModel(models.Model):
    """A model to start from: a folder on the workers' disk or a hub id. Runs name it, never its path."""

    name = models.CharField(max_length=100, unique=True)
    modality = models.CharField(max_length=8, choices=Project.Modality)
    location = models.CharField(max_length=500, help_text="a folder that workers can read, or a hub id")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class Snapshot(models.Model):
    """The rows of a run, frozen once for all attempts: judgements before `cutoff`, never later ones.

    `storage_key` is a zip of `train.jsonl`, `eval.jsonl` and `media/`. `sha256` is the hash of its content:
    of the names and bytes of these files, however they were packed.
    """

    project = models.ForeignKey(Project, null=True, on_delete=models.PROTECT, related_name="snapshots")
    cutoff = models.DateTimeField()
    filters = models.JSONField(default=dict)
    eval_fraction = models.FloatField(default=0.0)
    seed = models.BigIntegerField(default=0)
    shuffle_labels = models.BooleanField(
        default=False, help_text="a control: the same data with random labels"
    )
    prompts_only = models.BooleanField(
        default=False, help_text="the prompts of all comparisons, judged or not, and nothing else"
    )
    sha256 = models.CharField(max_length=64, blank=True)
    storage_key = models.CharField(max_length=200, blank=True)
    counts = models.JSONField(
        default=dict, help_text="groups, judgements, annotators, train_groups, eval_groups"
    )
    people = models.JSONField(default=dict, help_text="how many of its judgements each annotator gave")
    frozen_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(eval_fraction__gte=0, eval_fraction__lt=1), name="snapshot_eval_fraction"
            )
        ]

    def __str__(self) -> str:
        return f"snapshot {self.pk}"


class RunQuerySet(ProjectRows["Run"]):
    def queued(self, *, device_kind: str) -> "RunQuerySet":
        """Those that a worker with such a device may take now."""
        is_free = Q(not_before=None) | Q(not_before__lte=Now())
        return self.filter(is_free, status=Run.Status.QUEUED, device_kind=device_kind)

    def lost(self, *, now: datetime, stale_after: timedelta, stall_after: timedelta) -> "RunQuerySet":
        """Running, but no worker or no progress has been seen for too long."""
        silent = Q(heartbeat_at__lt=now - stale_after) | Q(progress_at__lt=now - stall_after)
        return self.filter(silent, status=Run.Status.RUNNING)

    def held_by(self, run: "Run") -> "RunQuerySet":
        """The run as long as this attempt may write to it. Every write of a worker goes through here."""
        return self.filter(pk=run.pk, attempt=run.attempt, status=Run.Status.RUNNING)


class Run(models.Model):
    """One training (or generation, or scoring) job with a run directory, and all that is known of it.

    draft → preparing → queued → running → done | failed | cancelled; a lost attempt goes back to queued.
    Every write of a worker filters on `attempt`, so that a worker that was given up cannot write.
    """

    class Status(models.TextChoices):
        DRAFT = "draft", _("draft")  # its data is frozen and looked at; it waits for a person to start it
        PREPARING = "preparing", _("preparing")
        QUEUED = "queued", _("queued")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    ENDED = (Status.DONE, Status.FAILED, Status.CANCELLED)

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="runs")
    method = models.CharField(max_length=32)
    base = models.ForeignKey(BaseModel, null=True, blank=True, on_delete=models.PROTECT, related_name="runs")
    base_checkpoint = models.ForeignKey(
        "Checkpoint", null=True, blank=True, on_delete=models.PROTECT, related_name="runs_from_here"
    )
    reward = models.JSONField(default=list)
    config = models.JSONField(default=dict)
    seed = models.BigIntegerField(default=0)
    snapshot = models.ForeignKey(Snapshot, on_delete=models.PROTECT, related_name="runs")
    start_when_ready = models.BooleanField(default=True)
    status = models.CharField(max_length=10, choices=Status, default=Status.PREPARING)
    device_kind = models.CharField(max_length=8, default="cpu")
    code_version = models.CharField(max_length=64, blank=True)
    # Who works on it
    preparations = models.PositiveSmallIntegerField(
        default=0, help_text="how often its data was begun to be frozen"
    )
    attempt = models.PositiveIntegerField(
        default=0, help_text="grows with every claim; older attempts cannot write"
    )
    lost_attempts = models.PositiveSmallIntegerField(
        default=0, help_text="whose worker or trainer died or stalled"
    )
    worker = models.CharField(max_length=100, blank=True)
    queued_at = models.DateTimeField(null=True, blank=True)
    not_before = models.DateTimeField(
        null=True, blank=True, help_text="the end of the pause after an attempt that was lost"
    )
    started_at = models.DateTimeField(null=True, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    progress_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    # What it did
    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(null=True, blank=True)
    error = models.TextField(blank=True)
    log_tail = models.TextField(blank=True)
    preview = models.JSONField(null=True, blank=True, help_text="the data as the trainer will see it")
    samples = models.JSONField(default=list, help_text="rows of samples.jsonl; images as media names")
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[RunQuerySet] = RunQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=~(Q(base__isnull=False) & Q(base_checkpoint__isnull=False)), name="run_has_one_base"
            ),
        ]
        indexes = [
            models.Index(
                fields=["device_kind", "queued_at", "id"], condition=Q(status="queued"), name="run_queue"
            ),
            models.Index(fields=["heartbeat_at"], condition=Q(status="running"), name="run_heartbeat"),
            models.Index(fields=["project", "-created_at"], name="run_of_project"),
        ]

    def __str__(self) -> str:
        return f"run {self.pk} ({self.method})"

    def get_absolute_url(self) -> str:
        return reverse("training:run", args=[self.pk])

    @property
    def has_ended(self) -> bool:
        return self.status in self.ENDED

    @property
    def is_job(self) -> bool:
        """Generation or scoring: its result holds rows, not weights."""
        return self.method in JOBS

    @property
    def writes_answers(self) -> bool:
        """Generation: what it wrote can be judged."""
        return self.method in GENERATORS

    @property
    def gives_scores(self) -> bool:
        """Scoring: what it found can be suggested to annotators."""
        return self.method in ("score", "image_score")

    @property
    def is_evaluation(self) -> bool:
        """Its result is a report on a reward."""
        return self.method in ("evaluate", "image_evaluate")


class Metric(models.Model):
    """One row of metrics.jsonl; a resumed run replaces the rows after its checkpoint."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="metrics")
    step = models.PositiveIntegerField()
    kind = models.CharField(max_length=8, default="train")  # train | eval
    values = models.JSONField()

    class Meta:
        ordering = ["run", "step", "kind"]
        constraints = [models.UniqueConstraint(fields=["run", "step", "kind"], name="metric_once_per_step")]

    def __str__(self) -> str:
        return f"run {self.run_id}, step {self.step}"


class ResumePoint(models.Model):
    """A `checkpoint-…/` folder of an unfinished run, zipped in the storage: the newest two and the best."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="resume_points")
    step = models.PositiveIntegerField()
    storage_key = models.CharField(max_length=200)
    sha256 = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["run", "step"]
        constraints = [models.UniqueConstraint(fields=["run", "step"], name="resume_point_once_per_step")]

    def __str__(self) -> str:
        return f"run {self.run_id} at {self.step}"


class CheckpointQuerySet(ProjectRows["Checkpoint"]):
    project_path = "run__project"

    def of_models(self) -> "CheckpointQuerySet":
        """Those that runs may start from: not the rows that generation and scoring made."""
        return self.exclude(run__method__in=JOBS)


class Checkpoint(models.Model):
    """The result of a finished run: a zip of `result/` in the storage, named by its SHA-256."""

    run = models.OneToOneField(Run, on_delete=models.PROTECT, related_name="checkpoint")
    storage_key = models.CharField(max_length=200)
    sha256 = models.CharField(max_length=64)
    size = models.BigIntegerField(help_text="bytes")
    metadata = models.JSONField(default=dict, help_text="result/metadata.json")
    created_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[CheckpointQuerySet] = CheckpointQuerySet.as_manager()  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"checkpoint {self.pk}"


class HubUploadQuerySet(ProjectRows["HubUpload"]):
    def open(self) -> "HubUploadQuerySet":
        return self.filter(status__in=[HubUpload.Status.QUEUED, HubUpload.Status.RUNNING])


class HubUpload(models.Model):
    """A copy of a checkpoint on a model hub that somebody asked for. No token is ever stored."""

    class Status(models.TextChoices):
        QUEUED = "queued", _("queued")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        FAILED = "failed", _("failed")

    # The project stands here for the audit log, whose triggers see this row alone.
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.CASCADE, related_name="uploads")
    repository = models.CharField(max_length=200, help_text="owner/name")
    private = models.BooleanField(default=True)
    status = models.CharField(max_length=8, choices=Status, default=Status.QUEUED)
    url = models.CharField(max_length=300, blank=True)
    error = models.TextField(blank=True)
    created_by = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[HubUploadQuerySet] = HubUploadQuerySet.as_manager()  # type: ignore[assignment]

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["checkpoint", "repository"],
                condition=Q(status__in=["queued", "running"]),
                name="hub_upload_once_at_a_time",
            )
        ]
        triggers = audited(
            "hub_upload",
            project="(whole ->> 'project_id')::bigint",
            ignored=["status", "url", "error", "started_at", "finished_at"],
        )

    def __str__(self) -> str:
        return f"upload of checkpoint {self.checkpoint_id} to {self.repository}"
