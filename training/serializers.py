"""The shapes of requests and replies of the training API. An unknown key is an error, never ignored."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from annotation.models import Project
from annotation.serializers import StrictSerializer
from training.designs import NAMES
from training.models import (
    BaseModel,
    Checkpoint,
    HubUpload,
    Match,
    Promotion,
    Round,
    RoundStep,
    Run,
    Schedule,
)
from training.services import name_of_base, win_rate


class RunRequestSerializer(StrictSerializer):
    project = serializers.IntegerField()
    method = serializers.CharField(max_length=32)
    base = serializers.CharField(max_length=120, help_text='a registered model, or "checkpoint:<id>"')
    reward = serializers.ListField(child=serializers.JSONField(), required=False, default=list)
    config = serializers.DictField(required=False, default=dict, help_text="keys of the method's schema")
    filters = serializers.DictField(required=False, default=dict, help_text="annotators, since, kinds, …")
    eval_fraction = serializers.FloatField(required=False, default=0.0, min_value=0)
    seed = serializers.IntegerField(required=False, default=0)
    shuffle_labels = serializers.BooleanField(required=False, default=False, help_text="a control run")
    start = serializers.BooleanField(required=False, default=True, help_text="false: wait as a draft")


class JobRequestSerializer(StrictSerializer):
    project = serializers.IntegerField()
    reward = serializers.ListField(child=serializers.JSONField(), required=False, default=list)
    config = serializers.DictField(required=False, default=dict, help_text="keys of the job's schema")
    seed = serializers.IntegerField(required=False, default=0)


class GenerationRequestSerializer(JobRequestSerializer):
    base = serializers.CharField(max_length=120, help_text='a registered model, or "checkpoint:<id>"')
    prompts = serializers.ListField(
        child=serializers.JSONField(),
        required=False,
        default=None,
        allow_null=True,
        max_length=100_000,
        help_text="texts or lists of messages; left out: every prompt of the project",
    )


class WrittenAnswerSerializer(StrictSerializer):
    text = serializers.JSONField(help_text="a text, or a list of messages")


class TextGroupSerializer(StrictSerializer):
    prompt = serializers.JSONField()
    candidates = WrittenAnswerSerializer(many=True, allow_empty=False)
    reference = serializers.JSONField(required=False)


class ScoringRequestSerializer(JobRequestSerializer):
    base = serializers.CharField(
        max_length=120,
        required=False,
        allow_null=True,
        default=None,
        help_text='a reward model, registered or "checkpoint:<id>"; left out where `reward` is given',
    )
    groups = TextGroupSerializer(
        many=True,
        required=False,
        allow_null=True,
        default=None,
        help_text="rows of texts to score; left out: every comparison of the project",
    )


class EvaluationRequestSerializer(JobRequestSerializer):
    base = serializers.CharField(
        max_length=120,
        required=False,
        allow_null=True,
        default=None,
        help_text='a reward model, registered or "checkpoint:<id>"; left out where `reward` is given',
    )
    groups = serializers.ListField(
        child=serializers.DictField(),
        required=False,
        allow_null=True,
        default=None,
        max_length=100_000,
        help_text="group rows with judgements or `meta.correct`, or rows with `chosen` and `rejected`; left "
        "out: what the project knows of prompts that the reward was not trained on",
    )


class ReportSerializer(serializers.Serializer):
    run = serializers.IntegerField(help_text="the evaluation")
    report = serializers.DictField(help_text="`figures` holds its headlines, each a number")


class OveroptimisationSerializer(serializers.Serializer):
    run = serializers.IntegerField()
    curves = serializers.DictField(help_text="proxy, gold, people, law, stop, hacked_at; empty without `kl`")


class SuggestedScoresSerializer(serializers.Serializer):
    suggested = serializers.IntegerField(help_text="comparisons")


class AddedAnswersSerializer(serializers.Serializer):
    added = serializers.IntegerField(help_text="comparisons")
    alike = serializers.IntegerField(help_text="prompts without two different answers")


class CheckpointSerializer(serializers.ModelSerializer):
    name = serializers.SerializerMethodField(help_text="as a run's base names it")

    class Meta:
        model = Checkpoint
        fields = ["id", "name", "run", "sha256", "size", "metadata", "created_at"]

    def get_name(self, checkpoint: Checkpoint) -> str:
        return f"checkpoint:{checkpoint.pk}"


class RunSerializer(serializers.ModelSerializer):
    base = serializers.SerializerMethodField()
    filters = serializers.JSONField(source="snapshot.filters")
    eval_fraction = serializers.FloatField(source="snapshot.eval_fraction")
    shuffle_labels = serializers.BooleanField(source="snapshot.shuffle_labels")
    snapshot = serializers.SerializerMethodField(help_text="hash and counts of the frozen data; null before")
    checkpoint = serializers.SerializerMethodField(help_text="the result's id; null before it is done")

    class Meta:
        model = Run
        fields = [
            "id", "project", "method", "base", "reward", "config", "filters", "eval_fraction", "seed",
            "shuffle_labels", "status", "step", "total_steps", "error", "attempt", "snapshot", "checkpoint",
            "code_version", "created_at", "queued_at", "started_at", "finished_at",
        ]  # fmt: skip

    def get_base(self, run: Run) -> str:
        return name_of_base(run)

    @extend_schema_field(serializers.DictField(allow_null=True))
    def get_snapshot(self, run: Run) -> dict[str, Any] | None:
        snapshot = run.snapshot
        return {"sha256": snapshot.sha256, **snapshot.counts} if snapshot.frozen_at else None

    @extend_schema_field(serializers.IntegerField(allow_null=True))
    def get_checkpoint(self, run: Run) -> int | None:
        return run.checkpoint.pk if hasattr(run, "checkpoint") else None


class MetricsSerializer(serializers.Serializer):
    status = serializers.CharField()
    step = serializers.IntegerField()
    total_steps = serializers.IntegerField(allow_null=True)
    metrics = serializers.ListField(child=serializers.DictField(), help_text="rows of metrics.jsonl")


class BaseModelSerializer(serializers.ModelSerializer):
    class Meta:
        model = BaseModel
        fields = ["id", "name", "modality", "location", "created_at"]


class BaseModelRequestSerializer(StrictSerializer):
    name = serializers.CharField(max_length=100)
    modality = serializers.ChoiceField(Project.Modality.choices)
    location = serializers.CharField(max_length=500, help_text="a folder on the workers' disk, or a hub id")


class PrioritiesRequestSerializer(StrictSerializer):
    by = serializers.ChoiceField(list(NAMES), required=False, default="batch_information")
    at_least = serializers.FloatField(
        required=False, default=0.0, min_value=0, help_text="asked last where two members differ by less"
    )
    budget = serializers.IntegerField(
        required=False, default=None, min_value=1, help_text="by worth: how many comparisons people answer"
    )
    double_share = serializers.FloatField(
        required=False,
        default=None,
        min_value=0,
        max_value=1,
        help_text="by worth: how many of those are drawn at random; 0.1 unless given",
    )


class PrioritiesSerializer(serializers.Serializer):
    first = serializers.IntegerField(help_text="comparisons in the new order")
    last = serializers.IntegerField(help_text="not worth asking yet")
    without = serializers.IntegerField(help_text="open, but not scored")


class HubUploadRequestSerializer(StrictSerializer):
    repository = serializers.CharField(max_length=200, help_text="owner/name")
    private = serializers.BooleanField(required=False, default=True)


class HubUploadSerializer(serializers.ModelSerializer):
    class Meta:
        model = HubUpload
        fields = ["id", "checkpoint", "repository", "private", "status", "url", "error", "created_at"]


class MatchRequestSerializer(StrictSerializer):
    project = serializers.IntegerField()
    left = serializers.CharField(max_length=120)
    right = serializers.CharField(max_length=120)
    prompts = serializers.ListField(
        child=serializers.JSONField(), required=False, allow_null=True, default=None
    )
    samples_per_prompt = serializers.IntegerField(required=False, default=1, min_value=1, max_value=100)
    config = serializers.DictField(required=False, default=dict)
    seed = serializers.IntegerField(required=False, default=0, min_value=0)


class MatchSerializer(serializers.ModelSerializer):
    left = serializers.SerializerMethodField()
    right = serializers.SerializerMethodField()
    win_rate = serializers.SerializerMethodField(help_text="of the left model; ties count one half")

    class Meta:
        model = Match
        fields = [
            "id", "project", "left", "right", "left_run", "right_run", "prompts", "status", "error",
            "win_rate", "created_at",
        ]  # fmt: skip

    def get_left(self, match: Match) -> str:
        return name_of_base(match.left_run)

    def get_right(self, match: Match) -> str:
        return name_of_base(match.right_run)

    @extend_schema_field(serializers.DictField())
    def get_win_rate(self, match: Match) -> dict[str, Any]:
        return win_rate(match)


class ScheduleRequestSerializer(StrictSerializer):
    project = serializers.IntegerField()
    name = serializers.CharField(max_length=100)
    plan = serializers.ListField(child=serializers.JSONField(), help_text='steps; {"step": 0} names a result')
    every_judgements = serializers.IntegerField(required=False, allow_null=True, default=None, min_value=1)
    cron = serializers.CharField(required=False, allow_blank=True, default="", max_length=100)


class ScheduleChangeSerializer(StrictSerializer):
    enabled = serializers.BooleanField()


class ScheduleSerializer(serializers.ModelSerializer):
    class Meta:
        model = Schedule
        fields = [
            "id", "project", "name", "every_judgements", "cron", "plan", "enabled", "fired_at", "created_at",
        ]  # fmt: skip


class RoundStepSerializer(serializers.ModelSerializer):
    class Meta:
        model = RoundStep
        fields = [
            "index", "kind", "spec", "status", "run", "match", "result", "error", "started_at", "finished_at",
        ]  # fmt: skip


class RoundSerializer(serializers.ModelSerializer):
    steps = RoundStepSerializer(many=True)

    class Meta:
        model = Round
        fields = [
            "id", "project", "schedule", "name", "number", "status", "error", "started_at", "finished_at",
            "steps",
        ]  # fmt: skip


class PromotionSerializer(serializers.ModelSerializer):
    class Meta:
        model = Promotion
        fields = ["id", "project", "checkpoint", "evidence", "promoted_at"]


class NodeSerializer(serializers.Serializer):
    id = serializers.CharField(help_text="checkpoint:5, run:7, snapshot:3, model:tiny, rule:words")
    kind = serializers.CharField()
    facts = serializers.DictField()


class EdgeSerializer(serializers.Serializer):
    node = serializers.CharField()
    origin = serializers.CharField()
    role = serializers.CharField(help_text="made by, started from, learnt from, rewarded by")


class LineageSerializer(serializers.Serializer):
    nodes = NodeSerializer(many=True)
    edges = EdgeSerializer(many=True)
    taken_back = serializers.IntegerField(help_text="people who have since deleted what they said")
