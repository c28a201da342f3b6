"""What may reach an annotator's browser. Nothing here names a source, a canonical index or another's vote."""

import uuid
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from django.db.models import Sum
from django.urls import reverse

from annotation.markdown import render_content
from annotation.models import Candidate, Comparison, Judgement, Lease, Media, Project, User
from annotation.permissions import Action, find
from annotation.services.queue import questions_of


def present(lease: Lease, *, html: bool = False) -> dict[str, Any]:
    """Keys: lease, expires_at, comparison, prompt, candidates in presented order, questions.

    With `html` also `prompt_html` and each text's `html`: their Markdown, safe to put into a page.
    """
    candidates = {candidate.index: candidate for candidate in lease.comparison.candidates.all()}
    shown = {
        "lease": str(lease.pk),
        "expires_at": lease.expires_at,
        "comparison": lease.comparison_id,
        "prompt": lease.comparison.prompt,
        "candidates": [
            {"position": position, **_content(lease, position, candidates[index])}
            for position, index in enumerate(lease.order)
        ],
        "questions": questions_of(lease, lease.comparison.project),
    }
    if html:
        shown["prompt_html"] = render_content(lease.comparison.prompt)
        for candidate in shown["candidates"]:
            if "text" in candidate:
                candidate["html"] = render_content(candidate["text"])
    return shown


def _content(lease: Lease, position: int, candidate: Candidate) -> dict[str, Any]:
    if candidate.image is None:
        return {"text": candidate.text}
    url = reverse("lease-media", args=[lease.pk, position])
    return {"image": url, "width": candidate.image.width, "height": candidate.image.height}


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
    standing = Judgement.objects.standing().filter(comparison__project=project, annotator=user)
    seconds = sorted(
        value
        for value in standing.order_by("-created_at").values_list("seconds", flat=True)[:50]
        if value is not None
    )
    slots = Comparison.objects.filter(project=project).aggregate(wanted=Sum("needed"), open=Sum("open_slots"))
    return {
        "mine": standing.count(),
        "mine_today": standing.filter(created_at__gte=now - timedelta(days=1)).count(),
        "median_seconds": median(seconds) if seconds else None,
        "open": slots["open"] or 0,
        "wanted": slots["wanted"] or 0,
    }
