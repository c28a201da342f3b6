"""What may reach an annotator's browser. Nothing here names a source, a canonical index or another's vote."""

import hashlib
import hmac
import uuid
from datetime import datetime, timedelta
from statistics import median
from typing import Any, Final

from django.conf import settings
from django.db.models import Sum
from django.urls import reverse

from annotation.answer_form import render_form
from annotation.feedback import render_said
from annotation.markdown import render_content
from annotation.models import (
    Candidate,
    Judgement,
    Kind,
    Lease,
    Media,
    Member,
    Project,
    SlotTally,
    User,
)
from annotation.permissions import Action, find
from annotation.rendering import render_candidate
from annotation.services.answers import answer_as_given, questions_of
from annotation.services.media import pictures_of_prompt, shown_prompt
from annotation.services.reviewing import conflicting_judgements
from annotation.services.suggestions import as_shown, suggestions_for
from annotation.template import context_of, find_question, steps_of

HISTORY_LENGTH: Final = 20


def present(lease: Lease, *, html: bool = False) -> dict[str, Any]:
    """Keys: lease, expires_at, comparison, prompt, candidates in presented order, questions.

    Where the template shows one, `context`; where the project shows what models said, `suggestions`; where it
    marks steps, each candidate's `steps` as [start, end] in characters; after an undo `previous_answer`, in
    presented positions. With `html` also `prompt_html`, `context_html`, each text's `html`, and `form_html`,
    the form that answers it, and for reviewers `said_html`; all safe to put into a page.
    """
    questions = questions_of(lease, lease.comparison.project)
    candidates = {candidate.index: candidate for candidate in lease.comparison.candidates.all()}
    shown = {
        "lease": str(lease.pk),
        "expires_at": lease.expires_at,
        "comparison": shown_number(lease),
        "prompt": _prompt(lease),
        "candidates": [
            {"position": position, **_content(lease, position, candidates[index])}
            for position, index in enumerate(lease.order)
        ],
        "questions": questions,
    }
    context = context_of(questions, lease.comparison.meta)
    if context is not None:
        shown["context"] = context
    if suggested := suggestions_for(lease, lease.comparison.project):
        shown["suggestions"] = as_shown(suggested, lease.order)
    if lease.redo_of is not None:
        shown["previous_answer"] = answer_as_given(lease.redo_of)
    if "step" in (find_question(questions, "marks") or {}).get("kinds", ()):
        for candidate in shown["candidates"]:
            candidate["steps"] = steps_of(candidate["text"])
    if lease.kind == Kind.REVIEW:
        shown["judgements"] = conflicting_judgements(lease)
    if html:
        shown["prompt_html"] = render_content(shown["prompt"])
        if context is not None:
            shown["context_html"] = render_content(context)
        for candidate in shown["candidates"]:
            if "text" in candidate:
                candidate["html"] = render_candidate(candidate["text"], shown["questions"])
        shown["form_html"] = render_form(shown)
        if "judgements" in shown:
            shown["said_html"] = render_said(shown["judgements"])
    return shown


def history(*, project: Project, user: User) -> list[dict[str, Any]]:
    """This person's last answers in the project, newest first, those that were taken back too.

    Keys: judgement, lease, comparison, prompt, answer (as given), questions (as shown), seconds, created_at,
    undone_at.
    """
    mine = Judgement.objects.filter(comparison__project=project, annotator=user, lease__isnull=False)
    last = list(
        mine.select_related("lease__comparison__project").order_by("-created_at", "-pk")[:HISTORY_LENGTH]
    )
    versions = {judgement.template_version for judgement in last}
    templates = dict(
        project.template_versions.filter(version__in=versions).values_list("version", "questions")
    )
    return [
        {
            "judgement": judgement.pk,
            "lease": str(judgement.lease_id),
            "comparison": shown_number(judgement.lease),
            "prompt": _prompt(judgement.lease),
            "answer": answer_as_given(judgement),
            "questions": templates[judgement.template_version],
            "seconds": judgement.seconds,
            "created_at": judgement.created_at,
            "undone_at": judgement.undone_at,
        }
        for judgement in last
        if judgement.lease is not None
    ]


def shown_number(lease: Lease) -> int:
    """What names the comparison to its annotator: its id, or a number without meaning where checks are mixed
    in. A gold question from another import, or a repeat, would be known by its id."""
    if not lease.comparison.project.has_checks:
        return lease.comparison_id
    message = f"comparison:{lease.comparison_id}:{lease.kind == Kind.REPEAT}".encode()
    return int(hmac.new(settings.SECRET_KEY.encode(), message, hashlib.sha256).hexdigest()[:13], 16)


def _content(lease: Lease, position: int, candidate: Candidate) -> dict[str, Any]:
    if candidate.image is None:
        return {"text": candidate.text}
    url = reverse("lease-media", args=[lease.pk, position])
    return {"image": url, "width": candidate.image.width, "height": candidate.image.height}


def _prompt(lease: Lease) -> Any:
    return shown_prompt(
        lease.comparison.prompt, lambda number: reverse("lease-prompt-media", args=[lease.pk, number])
    )


def lease_prompt_image(*, lease_id: uuid.UUID, number: int, annotator: User) -> Media | None:
    """A picture of the prompt of a lease that is this person's own, or None."""
    leases = Lease.objects.select_related("comparison")
    lease = find(leases, annotator, Action.JUDGE, pk=lease_id, annotator=annotator)
    pictures = pictures_of_prompt(lease.comparison.prompt)
    return pictures[number] if number < len(pictures) else None


def lease_image(*, lease_id: uuid.UUID, position: int, annotator: User) -> Media | None:
    """The picture at a presented position of a lease that is this person's own, or None."""
    leases = Lease.objects.only("order", "comparison")
    lease = find(leases, annotator, Action.JUDGE, pk=lease_id, annotator=annotator)
    if not 0 <= position < len(lease.order):
        return None
    candidates = Candidate.objects.filter(comparison=lease.comparison_id, index=lease.order[position])
    return Media.objects.filter(pk__in=candidates.values("image")).first()


def progress(*, project: Project, user: User, now: datetime) -> dict[str, Any]:
    """For the judging page: how much this person has done, how fast, and how much the project still wants.

    Keys: mine, mine_today, median_seconds (of the last 50; None without any), and the slots of the whole
    project: wanted, and open (neither judged nor in somebody's hands).
    """
    member = Member.objects.filter(project=project, user=user).only("answered").first()
    standing = Judgement.objects.standing().filter(comparison__project=project, annotator=user)
    seconds = sorted(
        value
        for value in standing.order_by("-created_at").values_list("seconds", flat=True)[:50]
        if value is not None
    )
    slots = SlotTally.objects.filter(project=project).aggregate(wanted=Sum("wanted"), open=Sum("open"))
    return {
        "mine": member.answered if member else 0,
        "mine_today": standing.filter(created_at__gte=now - timedelta(days=1)).count(),
        "median_seconds": median(seconds) if seconds else None,
        "open": slots["open"] or 0,
        "wanted": slots["wanted"] or 0,
    }
