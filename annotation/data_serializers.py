"""Shapes of the API's look at comparisons and judgements, and of changes by hand."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from annotation.data_forms import DataFilterForm, JudgementFilterForm
from annotation.models import Candidate, Comparison, Judgement
from annotation.serializers import StrictSerializer
from annotation.services.comparisons import annotator_name


class CandidateSerializer(serializers.ModelSerializer):
    image = serializers.SerializerMethodField(help_text="SHA-256 of the picture")
    text = serializers.JSONField(help_text="a text, or a list of messages", allow_null=True)

    class Meta:
        model = Candidate
        fields = ["index", "text", "image", "source"]

    def get_image(self, candidate: Candidate) -> str | None:
        return candidate.image.sha256 if candidate.image else None

    def to_representation(self, candidate: Candidate) -> dict[str, Any]:
        shown = super().to_representation(candidate)
        if candidate.comparison_id in self.context["in_hand"]:
            shown["source"] = ""
        return shown


class StoredJudgementSerializer(serializers.ModelSerializer):
    """A judgement as it is kept: canonical indices."""

    annotator = serializers.SerializerMethodField()
    answer = serializers.SerializerMethodField(help_text="choice, strength and the template's other answers")

    class Meta:
        model = Judgement
        fields = [
            "id", "comparison", "annotator", "kind", "order", "answer", "template_version", "seconds",
            "created_at", "undone_at", "set_aside_at",
        ]  # fmt: skip

    def get_annotator(self, judgement: Judgement) -> str:
        return annotator_name(judgement.annotator.username)

    @extend_schema_field(serializers.DictField())
    def get_answer(self, judgement: Judgement) -> dict[str, Any]:
        said = {"choice": judgement.choice, "strength": judgement.strength, **judgement.answers}
        return {name: value for name, value in said.items() if value is not None}


class ComparisonSerializer(serializers.ModelSerializer):
    prompt = serializers.JSONField(help_text="a text, or a list of messages")
    candidates = CandidateSerializer(many=True)

    class Meta:
        model = Comparison
        fields = [
            "id", "project", "rank", "prompt", "candidates", "held_out", "needed", "open_slots", "reference",
            "meta", "import_job", "created_at",
        ]  # fmt: skip


class ComparisonEditSerializer(StrictSerializer):
    prompt = serializers.JSONField(required=False, default=None)
    texts = serializers.ListField(
        child=serializers.JSONField(allow_null=True),
        required=False,
        default=None,
        max_length=100,
        help_text="a text for each candidate, or null where it stays",
    )
    held_out = serializers.BooleanField(required=False, default=None, allow_null=True)


class CorrectionSerializer(StrictSerializer):
    answer = serializers.DictField(help_text="all that the judgement says from now on, in canonical indices")
    reason = serializers.CharField(max_length=500)


class SuggestionSerializer(StrictSerializer):
    comparison = serializers.IntegerField(min_value=1, max_value=2**63 - 1)
    answer = serializers.DictField(help_text="in canonical indices")


class SuggestionsSerializer(StrictSerializer):
    model = serializers.CharField(max_length=140, help_text="who suggests; a later suggestion replaces")
    suggestions = serializers.ListField(child=SuggestionSerializer(), max_length=1000)


class StoredSuggestionsSerializer(serializers.Serializer):
    stored = serializers.IntegerField()


class ReasonSerializer(StrictSerializer):
    reason = serializers.CharField(max_length=500)


def filters_of(form: type[DataFilterForm | JudgementFilterForm], given: Any) -> dict[str, Any]:
    """The filters in an address, checked as those of the pages are."""
    bound = form(given)
    if not bound.is_valid():
        raise serializers.ValidationError(
            {name: [str(text) for text in found] for name, found in bound.errors.items()}
        )
    return bound.cleaned_data
