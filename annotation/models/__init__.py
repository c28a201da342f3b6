"""Rows, their constraints, and every read that others chain on. The unit is the comparison."""

from annotation.models.comparisons import Candidate, Comparison, ComparisonQuerySet, Media
from annotation.models.jobs import ExportJob, ImportJob, Job, RejectedRow
from annotation.models.judgements import Judgement, JudgementQuerySet, Lease, LeaseQuerySet
from annotation.models.people import ApiToken, FailedSignIn, User
from annotation.models.projects import Member, Project, ProjectQuerySet, TemplateVersion

__all__ = [
    "ApiToken",
    "Candidate",
    "Comparison",
    "ComparisonQuerySet",
    "ExportJob",
    "FailedSignIn",
    "ImportJob",
    "Job",
    "Judgement",
    "JudgementQuerySet",
    "Lease",
    "LeaseQuerySet",
    "Media",
    "Member",
    "Project",
    "ProjectQuerySet",
    "RejectedRow",
    "TemplateVersion",
    "User",
]
