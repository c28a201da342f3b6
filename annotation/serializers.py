"""The shapes of requests and replies of the API. An unknown key is an error, never ignored."""

import re
from typing import Any

from django.urls import reverse
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from annotation.formats import FORMATS
from annotation.formats.packing import CONTAINERS
from annotation.models import AuditEntry, ExportJob, ImportJob, Invitation, Judgement, Member, Project
from annotation.permissions import Role
from annotation.services import answer_as_given
from annotation.services.presenting import shown_number
from annotation.services.qualification import feedback as qualification_feedback
from annotation.template import answer_schema, inlined, template_schema

UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class StrictSerializer(serializers.Serializer):
    def to_internal_value(self, data: Any) -> Any:
        if hasattr(data, "keys"):
            known = {name for name, field in self.fields.items() if not field.read_only}
            if unknown := sorted(set(data.keys()) - known):
                message = f"is not known here; known: {', '.join(sorted(known))}."
                raise serializers.ValidationError(dict.fromkeys(unknown, message))
        return super().to_internal_value(data)


@extend_schema_field(inlined(template_schema()))
class Questions(serializers.JSONField):
    """A task template: a list of questions."""


class ProjectSerializer(StrictSerializer):
    id = serializers.IntegerField(read_only=True)
    name = serializers.CharField(max_length=200)
    modality = serializers.ChoiceField(Project.Modality.choices)
    guidelines = serializers.CharField(required=False, allow_blank=True, default="", trim_whitespace=False)
    questions = Questions(required=False, help_text="left out: one choice with strength, tie and both-bad")
    labels_per_comparison = serializers.IntegerField(required=False, default=1, min_value=1, max_value=1000)
    template_version = serializers.IntegerField(read_only=True)
    created_at = serializers.DateTimeField(read_only=True)


class ProjectChangesSerializer(StrictSerializer):
    """What is left out stays."""

    name = serializers.CharField(required=False, max_length=200)
    guidelines = serializers.CharField(required=False, allow_blank=True, trim_whitespace=False)
    questions = Questions(required=False, help_text="a changed template is a new version")
    labels_per_comparison = serializers.IntegerField(required=False, min_value=1, max_value=1000)
    lease_minutes = serializers.IntegerField(required=False, min_value=1, max_value=1440)


class TemplateVersionSerializer(serializers.Serializer):
    version = serializers.IntegerField()
    questions = Questions()
    created_at = serializers.DateTimeField()


class MemberSerializer(StrictSerializer):
    user = serializers.IntegerField(
        source="user_id", read_only=True, help_text="as other addresses name them"
    )
    username = serializers.CharField(source="user.username", max_length=150)
    role = serializers.ChoiceField(Member.Role.choices)


class InvitationSerializer(StrictSerializer):
    id = serializers.IntegerField(read_only=True)
    role = serializers.ChoiceField(Role.choices)
    note = serializers.CharField(required=False, allow_blank=True, default="", max_length=100)
    created_at = serializers.DateTimeField(read_only=True)
    expires_at = serializers.DateTimeField(read_only=True)
    link = serializers.SerializerMethodField(help_text="what to send; only in the reply that makes it")

    def get_link(self, invitation: Invitation) -> str | None:
        return self.context.get("link")


class AuditFilterSerializer(StrictSerializer):
    subject = serializers.ChoiceField(AuditEntry.Subject.choices, required=False)
    change = serializers.ChoiceField(AuditEntry.Change.choices, required=False)
    actor = serializers.CharField(required=False, max_length=150, help_text="a user name")
    since = serializers.DateField(required=False)
    until = serializers.DateField(required=False)
    cursor = serializers.CharField(required=False, help_text="from `next` or `previous`")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in attrs.items() if name != "cursor"}


class AuditEntrySerializer(serializers.ModelSerializer):
    actor = serializers.CharField(
        source="actor.username", default=None, help_text="null: the command line or a worker"
    )

    class Meta:
        model = AuditEntry
        fields = ["id", "at", "actor", "subject", "subject_id", "change", "before", "after"]


class ImportRequestSerializer(StrictSerializer):
    file = serializers.FileField(allow_empty_file=True)
    format = serializers.ChoiceField(list(FORMATS))
    held_out = serializers.BooleanField(required=False, default=False, help_text="for evaluation only")
    skip_duplicates = serializers.BooleanField(
        required=False,
        default=False,
        help_text="rows with the prompt and candidates of another, here or in the project, are only counted",
    )
    use = serializers.ChoiceField(
        ImportJob.Use.choices,
        required=False,
        default=ImportJob.Use.JUDGEMENTS,
        help_text="what the answers in the file are: judgements, or the right answers to gold questions or to"
        " questions of the test (one for each row; `explanation` is shown after an answer of the test)",
    )


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
            "id", "project", "format", "file_name", "held_out", "skip_duplicates", "use", "status",
            "accepted", "rejected", "duplicates", "line", "position", "total", "error",
            "created_at", "finished_at", "rejected_rows",
        ]  # fmt: skip

    @extend_schema_field(RejectedRowSerializer(many=True))
    def get_rejected_rows(self, job: ImportJob) -> Any:
        return RejectedRowSerializer(self.context["rejected_rows"], many=True).data


class ExportRequestSerializer(StrictSerializer):
    format = serializers.ChoiceField(list(FORMATS))
    container = serializers.ChoiceField(
        CONTAINERS, required=False, default="", help_text="left out: the format's usual one"
    )
    filters = serializers.JSONField(required=False, default=dict)


class ExportJobSerializer(serializers.ModelSerializer):
    download = serializers.SerializerMethodField(help_text="where the finished file lies")

    class Meta:
        model = ExportJob
        fields = [
            "id", "project", "format", "container", "filters", "status", "rows", "left_out", "error",
            "created_at", "finished_at", "download",
        ]  # fmt: skip

    def get_download(self, job: ExportJob) -> str | None:
        return reverse("export-download", args=[job.pk]) if job.status == ExportJob.Status.DONE else None


def _answer(key: str) -> serializers.JSONField:
    """The field of one key of an answer. Its schema is for the documents; the template decides what fits."""
    field = type(f"{key.title()}Answer", (serializers.JSONField,), {})
    return extend_schema_field(answer_schema(key))(field)(required=False, allow_null=True)


def _can_be_stored(value: Any) -> bool:
    """Whether Postgres can keep every string in it: no NUL, no half of a surrogate pair."""
    if isinstance(value, dict):
        return all(_can_be_stored(inner) for pair in value.items() for inner in pair)
    if isinstance(value, list):
        return all(map(_can_be_stored, value))
    return not isinstance(value, str) or not UNSTORABLE.search(value)


class AnswersSerializer(serializers.Serializer):
    """What was said, by the kinds of question; candidates are the positions in which they were shown."""

    choice = _answer("choice")
    strength = _answer("strength")
    aspects = _answer("aspects")
    ranking = _answer("ranking")
    ratings = _answer("ratings")
    thumbs = _answer("thumbs")
    rubric = _answer("rubric")
    tags = _answer("tags")
    critique = _answer("critique")
    corrections = _answer("corrections")
    marks = _answer("marks")
    turns = _answer("turns")


class AnswerSerializer(AnswersSerializer):
    """An answer: the keys of the template that `next` gave, others are refused."""

    client_id = serializers.UUIDField(help_text="new for each answer; a repeat under it changes nothing")

    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        answers = {name: value for name, value in data.items() if name != "client_id"}
        if not _can_be_stored(answers):
            problem = _("The answer holds a character that cannot be stored.")
            raise serializers.ValidationError({"non_field_errors": [problem]})
        return {"client_id": values["client_id"], "answers": answers}


_answers = AnswerSerializer()  # binding a dozen fields takes longer than reading an answer


def read_answer(data: Any) -> dict[str, Any]:
    """`client_id` and `answers`, checked. Raises `ValidationError`."""
    return _answers.run_validation(data)


class SkipSerializer(StrictSerializer):
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=500)


class PresentedCandidateSerializer(serializers.Serializer):
    position = serializers.IntegerField()
    text = serializers.JSONField(required=False, help_text="a text, or a list of messages")
    html = serializers.CharField(required=False, help_text="the text as safe HTML, with `?html=1`")
    steps = serializers.ListField(
        child=serializers.ListField(child=serializers.IntegerField(), min_length=2, max_length=2),
        required=False,
        help_text="where steps are marked: the start and end of each in characters (Unicode code points)",
    )
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
    suggestions = serializers.ListField(
        child=serializers.DictField(),
        required=False,
        help_text="what models said, where the project shows it: {by, answer}, in presented positions",
    )
    questions = Questions(help_text="the task template under which it is answered")
    context = serializers.CharField(
        required=False, help_text="principle or context, where the template shows one"
    )  # type: ignore[assignment]
    context_html = serializers.CharField(required=False, help_text="with `?html=1`")
    previous_answer = AnswersSerializer(required=False, help_text="what was taken back, after an undo")
    judgements = serializers.ListField(
        child=serializers.DictField(),
        required=False,
        help_text="for reviewers: what the annotators said, anonymous, in presented positions",
    )
    said_html = serializers.CharField(required=False, help_text="the same, with `?html=1`")


class TestResultSerializer(serializers.Serializer):
    right = serializers.IntegerField()
    total = serializers.IntegerField()
    passed = serializers.BooleanField()
    attempts_left = serializers.IntegerField()


class FeedbackSerializer(serializers.Serializer):
    """After an answer of the test before the first work."""

    right = serializers.BooleanField()
    expected = AnswersSerializer(help_text="the right one, as presented")
    explanation = serializers.CharField(help_text="Markdown")
    html = serializers.CharField(required=False, help_text="all of it in words, as safe HTML, with `?html=1`")
    result = TestResultSerializer(allow_null=True, help_text="after the last question of an attempt")


class LeaseStateSerializer(serializers.Serializer):
    lease = serializers.UUIDField(source="pk")
    state = serializers.CharField()
    expires_at = serializers.DateTimeField()


class JudgementReplySerializer(AnswersSerializer):
    """The answer as it was given; keys that were left out are absent or null."""

    judgement = serializers.IntegerField()
    lease = serializers.UUIDField()
    comparison = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    feedback = FeedbackSerializer(required=False, help_text="in the test before the first work")
    next = PresentedLeaseSerializer(
        required=False, allow_null=True, help_text="with `?next=1`; null: nothing is left"
    )


class HistorySerializer(serializers.Serializer):
    """One of a person's last answers."""

    judgement = serializers.IntegerField()
    lease = serializers.UUIDField()
    comparison = serializers.IntegerField()
    prompt = serializers.JSONField(help_text="a text, or a list of messages")
    answer = AnswersSerializer()
    questions = Questions(help_text="the task template under which it was answered")
    seconds = serializers.FloatField(allow_null=True)
    created_at = serializers.DateTimeField()
    undone_at = serializers.DateTimeField(allow_null=True, help_text="when it was taken back")


def judgement_reply(judgement: Judgement, following: dict[str, Any] | None) -> dict[str, Any]:
    """The answer as its annotator gave it: nothing canonical, and the next lease if one was asked for."""
    assert judgement.lease is not None  # it was just answered
    reply = {
        "judgement": judgement.pk,
        "lease": str(judgement.lease_id),
        "comparison": shown_number(judgement.lease),
        "choice": None,
        "strength": None,
        "created_at": judgement.created_at,
    }
    reply |= answer_as_given(judgement)
    if (feedback := qualification_feedback(judgement)) is not None:
        reply["feedback"] = feedback
    return reply | ({"next": following} if judgement.wanted_next else {})
