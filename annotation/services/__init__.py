"""Every write that touches several rows or has side effects; views, API and tasks make one call each."""

from annotation.services.accounts import create_user, issue_token, revoke_token, sign_in, sign_in_link
from annotation.services.answers import answer_as_given
from annotation.services.assignment import remove_group, save_group, update_assignment
from annotation.services.comparisons import add_comparisons
from annotation.services.consent import consent_text, give_consent, publish_consent_text
from annotation.services.counting import mark_stale
from annotation.services.duels import check_may_ask, lease_alone, take_away
from annotation.services.editing import (
    correct_judgement,
    delete_comparison,
    delete_untouched,
    edit_comparison,
    set_aside_judgement,
)
from annotation.services.exports import run_export, start_export
from annotation.services.gold import remove_gold_answer, set_gold_answer
from annotation.services.groups import judged_groups
from annotation.services.imports import run_import, start_import
from annotation.services.invitations import (
    accept_invitation,
    find_invitation,
    invitation_link,
    invite,
    join,
    revoke_invitation,
)
from annotation.services.jobs import resume_lost_jobs
from annotation.services.judging import submit_judgement, undo_judgement
from annotation.services.overlap import set_overlap
from annotation.services.people import (
    member_of,
    pause_member,
    restore,
    resume_member,
    set_aside,
    update_member,
)
from annotation.services.preferences import move_keys
from annotation.services.presenting import history, lease_image, lease_prompt_image, present, progress
from annotation.services.projects import add_member, create_project, hand_over, remove_member, update_project
from annotation.services.qualification import feedback
from annotation.services.queue import lease_of, next_lease
from annotation.services.reopening import renew_lease, reopen_expired_leases, skip_lease
from annotation.services.reviewing import REVIEWS_COUNTED, next_review, reviews_waiting
from annotation.services.searching import read_prompts
from annotation.services.standing import standing
from annotation.services.strategies import set_priorities, use_strategy
from annotation.services.suggestions import add_suggestions
from annotation.services.webhooks import (
    add_webhook,
    deliver_due,
    emit,
    forget_old_deliveries,
    rotate_secret,
    send_to,
    update_webhook,
)
from annotation.services.withdrawing import delete_judgements, take_part_again, withdraw

__all__ = [
    "REVIEWS_COUNTED",
    "accept_invitation",
    "add_comparisons",
    "add_member",
    "add_suggestions",
    "add_webhook",
    "answer_as_given",
    "check_may_ask",
    "consent_text",
    "correct_judgement",
    "create_project",
    "create_user",
    "delete_comparison",
    "delete_judgements",
    "delete_untouched",
    "deliver_due",
    "edit_comparison",
    "emit",
    "feedback",
    "find_invitation",
    "forget_old_deliveries",
    "give_consent",
    "hand_over",
    "history",
    "invitation_link",
    "invite",
    "issue_token",
    "join",
    "judged_groups",
    "lease_alone",
    "lease_image",
    "lease_of",
    "lease_prompt_image",
    "mark_stale",
    "member_of",
    "move_keys",
    "next_lease",
    "next_review",
    "pause_member",
    "present",
    "progress",
    "publish_consent_text",
    "read_prompts",
    "remove_gold_answer",
    "remove_group",
    "remove_member",
    "renew_lease",
    "reopen_expired_leases",
    "restore",
    "resume_lost_jobs",
    "resume_member",
    "reviews_waiting",
    "revoke_invitation",
    "revoke_token",
    "rotate_secret",
    "run_export",
    "run_import",
    "save_group",
    "send_to",
    "set_aside",
    "set_aside_judgement",
    "set_gold_answer",
    "set_overlap",
    "set_priorities",
    "sign_in",
    "sign_in_link",
    "skip_lease",
    "standing",
    "start_export",
    "start_import",
    "submit_judgement",
    "take_away",
    "take_part_again",
    "undo_judgement",
    "update_assignment",
    "update_member",
    "update_project",
    "update_webhook",
    "use_strategy",
    "withdraw",
]
