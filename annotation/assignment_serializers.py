"""The shapes of requests and replies of `annotation.assignment_api`."""

from rest_framework import serializers

from annotation.models import BulkChange, GoldAnswer, QueueStrategy, SetAside
from annotation.serializers import AnswersSerializer, StrictSerializer

LARGEST = 2**31 - 1


def limit(help_text: str) -> serializers.IntegerField:
    return serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=LARGEST, help_text=help_text
    )


class AssignmentSerializer(StrictSerializer):
    queue_strategy = serializers.ChoiceField(QueueStrategy.choices, required=False)
    quota = limit("answers of one member at most; null: no limit")
    daily_cap = limit("the same, for one day")
    gold_rate = serializers.FloatField(required=False, min_value=0, max_value=0.5)
    repeat_rate = serializers.FloatField(required=False, min_value=0, max_value=0.5)
    repeat_distance = serializers.IntegerField(required=False, min_value=1, max_value=10_000)
    pass_mark = serializers.FloatField(
        required=False, allow_null=True, min_value=0, max_value=1, help_text="null: no test"
    )
    test_attempts = serializers.IntegerField(required=False, min_value=1, max_value=100)
    skip_reasons = serializers.ListField(
        child=serializers.CharField(max_length=200), required=False, max_length=50
    )
    review_overrules = serializers.BooleanField(required=False)


class ConsentStateSerializer(serializers.Serializer):
    version = serializers.IntegerField()
    given = serializers.BooleanField()


class LastAttemptSerializer(serializers.Serializer):
    right = serializers.IntegerField()
    total = serializers.IntegerField()


class TestStateSerializer(serializers.Serializer):
    passed = serializers.BooleanField()
    pass_mark = serializers.FloatField()
    questions = serializers.IntegerField()
    attempts = serializers.IntegerField()
    used = serializers.IntegerField()
    last = LastAttemptSerializer(allow_null=True)


class StandingSerializer(serializers.Serializer):
    blocked = serializers.ChoiceField(
        ["withdrawn", "paused", "consent", "test_failed", "quota", "daily_cap"], allow_null=True
    )
    reason = serializers.CharField(help_text="the same in words")
    group = serializers.CharField(allow_null=True)
    answered = serializers.IntegerField()
    quota = serializers.IntegerField(allow_null=True)
    answered_today = serializers.IntegerField()
    daily_cap = serializers.IntegerField(allow_null=True)
    consent = ConsentStateSerializer(allow_null=True)
    test = TestStateSerializer(allow_null=True)


class GroupSerializer(StrictSerializer):
    id = serializers.IntegerField(read_only=True)
    name = serializers.CharField(max_length=100)
    attributes = serializers.JSONField(required=False, help_text='such as {"language": "de"}')
    reserved_labels = serializers.IntegerField(required=False, min_value=0, max_value=1000)


class MemberChangeSerializer(StrictSerializer):
    group = serializers.IntegerField(allow_null=True, min_value=1, max_value=2**63 - 1)
    quota = limit("null: as the project says")
    daily_cap = limit("null: as the project says")
    excused = serializers.BooleanField(help_text="works without the test")


class MemberStateSerializer(serializers.Serializer):
    user = serializers.IntegerField(source="user_id")
    username = serializers.CharField(source="user.username")
    role = serializers.CharField()
    group = serializers.IntegerField(source="group_id", allow_null=True)
    quota = serializers.IntegerField(allow_null=True)
    daily_cap = serializers.IntegerField(allow_null=True)
    answered = serializers.IntegerField()
    qualified_at = serializers.DateTimeField(allow_null=True)
    consented_version = serializers.IntegerField()
    paused_at = serializers.DateTimeField(allow_null=True)
    paused_reason = serializers.CharField()
    withdrawn_at = serializers.DateTimeField(allow_null=True)


class PauseSerializer(StrictSerializer):
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=500)


class SetAsideRequestSerializer(StrictSerializer):
    reason = serializers.CharField(max_length=500)
    since = serializers.DateTimeField(
        required=False, allow_null=True, default=None, help_text="only judgements given then or later"
    )


class SetAsideSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    user = serializers.IntegerField(source="annotator_id")
    reason = serializers.CharField()
    count = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    restored_at = serializers.DateTimeField(allow_null=True)
    unfinished = serializers.SerializerMethodField(
        help_text="more is set aside, or brought back, in the background; see the project's changes"
    )

    def get_unfinished(self, record: SetAside) -> bool:
        return record.unfinished_change() is not None


class BulkChangeSerializer(serializers.ModelSerializer):
    """A change to many rows of a project, made in the background where it takes long."""

    kind = serializers.ChoiceField(BulkChange.Kind.choices)
    status = serializers.ChoiceField(BulkChange.Status.choices)

    class Meta:
        model = BulkChange
        fields = ("id", "kind", "subject", "status", "done", "total", "error", "created_at", "finished_at")


class ConsentTextRequestSerializer(StrictSerializer):
    text = serializers.CharField(allow_blank=True, max_length=100_000, help_text="Markdown")


class ConsentTextSerializer(serializers.Serializer):
    version = serializers.IntegerField()
    text = serializers.CharField()
    created_at = serializers.DateTimeField()


class ConsentSerializer(StrictSerializer):
    version = serializers.IntegerField(min_value=1, max_value=LARGEST)


class WithdrawSerializer(StrictSerializer):
    judgements = serializers.ChoiceField(["keep", "delete"], help_text="what happens to what one said")


class GoneSerializer(serializers.Serializer):
    deleted = serializers.IntegerField(help_text="judgements")
    unfinished = serializers.BooleanField(help_text="more is deleted in the background")


class GoldAnswerSerializer(StrictSerializer):
    """Candidates are canonical: the order of the comparison, not of anybody's screen."""

    id = serializers.IntegerField(read_only=True)
    comparison = serializers.IntegerField(source="comparison_id", min_value=1, max_value=2**63 - 1)
    purpose = serializers.ChoiceField(GoldAnswer.Purpose.choices, required=False)
    answer = AnswersSerializer(help_text="the keys that are known; others may be answered anyhow")
    explanation = serializers.CharField(required=False, allow_blank=True, max_length=10_000)


class PrioritySerializer(StrictSerializer):
    comparisons = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=2**63 - 1), min_length=1, max_length=10_000
    )
    priority = serializers.IntegerField(min_value=-(2**15), max_value=2**15 - 1)


class OverlapSerializer(StrictSerializer):
    comparisons = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=2**63 - 1), min_length=1, max_length=10_000
    )
    labels = serializers.IntegerField(
        min_value=1, max_value=1000, help_text="how many people judge each; never fewer than have"
    )


class PriorityReplySerializer(serializers.Serializer):
    changed = serializers.IntegerField()


class SkippedSerializer(serializers.Serializer):
    comparison = serializers.IntegerField(source="comparison_id")
    username = serializers.CharField(source="annotator.username")
    reason = serializers.CharField(source="skip_reason")
    at = serializers.DateTimeField(source="closed_at")
