"""Every write that touches several rows or has side effects; views, API and tasks make one call each."""

from annotation.services.accounts import create_user, issue_token, sign_in, sign_in_link
from annotation.services.answers import answer_as_given
from annotation.services.comparisons import add_comparisons
from annotation.services.exports import run_export, start_export
from annotation.services.gold import remove_gold_answer, set_gold_answer
from annotation.services.groups import judged_groups
from annotation.services.imports import run_import, start_import
from annotation.services.jobs import resume_lost_jobs
from annotation.services.judging import submit_judgement, undo_judgement
from annotation.services.presenting import history, lease_image, present, progress
from annotation.services.projects import add_member, create_project, remove_member, update_project
from annotation.services.queue import lease_of, next_lease
from annotation.services.reopening import renew_lease, reopen_expired_leases, skip_lease
from annotation.services.strategies import set_priorities, use_strategy

__all__ = [
    "add_comparisons",
    "add_member",
    "answer_as_given",
    "create_project",
    "create_user",
    "history",
    "issue_token",
    "judged_groups",
    "lease_image",
    "lease_of",
    "next_lease",
    "present",
    "progress",
    "remove_gold_answer",
    "remove_member",
    "renew_lease",
    "reopen_expired_leases",
    "resume_lost_jobs",
    "run_export",
    "run_import",
    "set_gold_answer",
    "set_priorities",
    "sign_in",
    "sign_in_link",
    "skip_lease",
    "start_export",
    "start_import",
    "submit_judgement",
    "undo_judgement",
    "update_project",
    "use_strategy",
]
