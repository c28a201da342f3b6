"""The shapes of requests and replies of the API. An unknown key is an error, never ignored."""

from typing import Any

from django.urls import reverse
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from annotation.models import ExportJob, ImportJob, Judgement, Member, Project


class StrictSerializer(serializers.Serializer):
    def to_internal_value(self, data: Any) -> Any:
        if hasattr(data, "keys"):
            known = {name for name, field in self.fields.items() if not field.read_only}
            if unknown := sorted(set(data.keys()) - known):
                message = f"is not known here; known: {', '.join(sorted(known))}."
                raise serializers.ValidationError(dict.fromkeys(unknown, message))
        return super().to_internal_value(data)


class ProjectSerializer(StrictSerializer):
    id = serializers.IntegerField(read_only=True)
    name = serializers.CharField(max_length=200)
    modality = serializers.ChoiceField(Project.Modality.choices)
    guidelines = serializers.CharField(required=False, allow_blank=True, default="", trim_whitespace=False)
    questions = serializers.JSONField(
        required=False, help_text="left out: one choice with strength, tie and both-bad"
    )
    labels_per_comparison = serializers.IntegerField(required=False, default=1, min_value=1, max_value=1000)
    created_at = serializers.DateTimeField(read_only=True)


class MemberSerializer(StrictSerializer):
    username = serializers.CharField(source="user.username", max_length=150)
    role = serializers.ChoiceField(Member.Role.choices)


class ImportRequestSerializer(StrictSerializer):
    file = serializers.FileField(allow_empty_file=True)
    format = serializers.CharField(max_length=32)
    held_out = serializers.BooleanField(required=False, default=False, help_text="for evaluation only")


class RejectedRowSerializer(serializers.Serializer):
    line = serializers.IntegerField(help_text="one-based")
    field = serializers.CharField()
    reason = serializers.CharField()


class ImportJobSerializer(serializers.ModelSerializer):
    rejected_rows = serializers.SerializerMethodField(
        help_text="the first 1,000; `?after_line=` gives those behind"
    )

    class Meta:
        model = ImportJob
        fields = [
            "id", "project", "format", "file_name", "held_out", "status", "accepted", "rejected",
            "duplicates", "error", "created_at", "finished_at", "rejected_rows",
        ]  # fmt: skip

    @extend_schema_field(RejectedRowSerializer(many=True))
    def get_rejected_rows(self, job: ImportJob) -> Any:
        return RejectedRowSerializer(self.context["rejected_rows"], many=True).data


class ExportRequestSerializer(StrictSerializer):
    format = serializers.CharField(max_length=32)
    filters = serializers.JSONField(required=False, default=dict)


class ExportJobSerializer(serializers.ModelSerializer):
    download = serializers.SerializerMethodField(help_text="where the finished file lies")

    class Meta:
        model = ExportJob
        fields = [
            "id", "project", "format", "filters", "status", "rows", "left_out", "error", "created_at",
            "finished_at", "download",
        ]  # fmt: skip

    def get_download(self, job: ExportJob) -> str | None:
        return reverse("export-download", args=[job.pk]) if job.status == ExportJob.Status.DONE else None


@extend_schema_field(
    {"oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "enum": ["tie", "both_bad"]}]}
)
class ChoiceAnswer(serializers.Field):
    """A presented position, "tie" or "both_bad"; the template decides whether it fits."""

    def to_internal_value(self, data: Any) -> int | str:
        if isinstance(data, bool) or not isinstance(data, int | str):
            raise serializers.ValidationError('must be a position (0, 1, …), "tie" or "both_bad".')
        return data

    def to_representation(self, value: Any) -> Any:
        return value


class AnswerSerializer(serializers.Serializer):
    """An answer; keys beside these are the template's other answers."""

    client_id = serializers.UUIDField()
    choice = ChoiceAnswer()
    strength = serializers.IntegerField(
        required=False, allow_null=True, default=None, min_value=1, max_value=3
    )

    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        values["answers"] = {name: value for name, value in data.items() if name not in self.fields}
        return values


class SkipSerializer(StrictSerializer):
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=500)


class PresentedCandidateSerializer(serializers.Serializer):
    position = serializers.IntegerField()
    text = serializers.JSONField(required=False, help_text="a text, or a list of messages")
    html = serializers.CharField(required=False, help_text="the text as safe HTML, with `?html=1`")
    image = serializers.CharField(required=False, help_text="where the picture lies, for this lease")
    width = serializers.IntegerField(required=False)
    height = serializers.IntegerField(required=False)


class PresentedLeaseSerializer(serializers.Serializer):
    """A comparison as its annotator sees it; candidates in presented order."""

    lease = serializers.UUIDField()
    expires_at = serializers.DateTimeField()
    comparison = serializers.IntegerField()
    prompt = serializers.JSONField(help_text="a text, or a list of messages")
    prompt_html = serializers.CharField(required=False, help_text="with `?html=1`")
    candidates = PresentedCandidateSerializer(many=True)
    questions = serializers.JSONField(help_text="the task template")


class LeaseStateSerializer(serializers.Serializer):
    lease = serializers.UUIDField(source="pk")
    state = serializers.CharField()
    expires_at = serializers.DateTimeField()


class JudgementReplySerializer(serializers.Serializer):
    judgement = serializers.IntegerField()
    lease = serializers.UUIDField()
    comparison = serializers.IntegerField()
    choice = ChoiceAnswer(help_text="as presented")
    strength = serializers.IntegerField(allow_null=True)
    created_at = serializers.DateTimeField()
    next = PresentedLeaseSerializer(
        required=False, allow_null=True, help_text="with `?next=1`; null: nothing is left"
    )


def judgement_reply(judgement: Judgement, following: dict[str, Any] | None) -> dict[str, Any]:
    """The answer as its annotator gave it: nothing canonical, and the next lease if one was asked for."""
    choice = judgement.choice
    if isinstance(choice, int) and judgement.order is not None:
        choice = judgement.order.index(choice)
    reply = {
        "judgement": judgement.pk,
        "lease": str(judgement.lease_id),
        "comparison": judgement.comparison_id,
        "choice": choice,
        "strength": judgement.strength,
        "created_at": judgement.created_at,
    }
    return reply | ({"next": following} if judgement.wanted_next else {})
