"""Rows, their constraints, and every read that others chain on. The unit is the comparison."""

from annotation.models.assignment import Consent, ConsentText, GoldAnswer, QualificationAttempt, SetAside
from annotation.models.audit import AuditEntry, RateCount
from annotation.models.comparisons import (
    Candidate,
    Comparison,
    ComparisonQuerySet,
    Media,
    Reservation,
    SlotTally,
)
from annotation.models.editing import JudgementChange
from annotation.models.invitations import Invitation
from annotation.models.jobs import BulkChange, ExportJob, ImportJob, Job, RejectedRow, Work
from annotation.models.judgements import Judgement, JudgementQuerySet, Kind, Lease, LeaseQuerySet
from annotation.models.people import ApiToken, FailedSignIn, User
from annotation.models.projects import (
    AnnotatorGroup,
    Member,
    Project,
    ProjectQuerySet,
    QueueStrategy,
    TemplateVersion,
)
from annotation.models.quality import (
    QualityCount,
    QualityCursor,
    QualityReport,
    QualityStale,
    QualityUnit,
    SourceResult,
)
from annotation.models.search import PromptWords, UnreadPrompts
from annotation.models.webhooks import Webhook, WebhookDelivery

__all__ = [
    "AnnotatorGroup",
    "ApiToken",
    "AuditEntry",
    "BulkChange",
    "Candidate",
    "Comparison",
    "ComparisonQuerySet",
    "Consent",
    "ConsentText",
    "ExportJob",
    "FailedSignIn",
    "GoldAnswer",
    "ImportJob",
    "Invitation",
    "Job",
    "Judgement",
    "JudgementChange",
    "JudgementQuerySet",
    "Kind",
    "Lease",
    "LeaseQuerySet",
    "Media",
    "Member",
    "Project",
    "ProjectQuerySet",
    "PromptWords",
    "QualificationAttempt",
    "QualityCount",
    "QualityCursor",
    "QualityReport",
    "QualityStale",
    "QualityUnit",
    "QueueStrategy",
    "RateCount",
    "RejectedRow",
    "Reservation",
    "SetAside",
    "SlotTally",
    "SourceResult",
    "TemplateVersion",
    "UnreadPrompts",
    "User",
    "Webhook",
    "WebhookDelivery",
    "Work",
]
