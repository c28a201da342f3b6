"""The review page: what people disagree about, what they said, and the answer that decides."""

import uuid
from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from annotation import services
from annotation.browsing import own_judgements
from annotation.choices import choices_for
from annotation.errors import Blocked, Conflict, Invalid
from annotation.models import Kind, Lease, Project
from annotation.permissions import Action
from annotation.services.reviewing import conflicting_judgements
from annotation.template import find_question
from annotation.views.access import SignedIn, project_for
from annotation.views.judging import addresses, judging_page

NO_LEASE = uuid.UUID(int=0)


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def review(request: SignedIn, pk: int) -> HttpResponse:
    """The judging page with comparisons whose judges disagree, and what they said; the answer decides."""
    project = project_for(request, pk, Action.REVIEW)
    if request.method == "POST":
        return _decide(request, project)
    now, reason = timezone.now(), ""
    try:
        lease = services.next_review(project=project, user=request.user, now=now)
    except Blocked as blocked:
        lease, reason = None, str(blocked)
    mine = own_judgements(project=project, user=request.user).filter(kind=Kind.REVIEW)
    today = mine.filter(created_at__gte=now - timedelta(days=1)).count()
    context = {
        "review": True,
        "waiting": services.reviews_waiting(project),
        "reason": reason
        or _(
            "Nobody disagrees at the moment. "
            "Comparisons come here once all their judgements are in and differ."
        ),
        "progress": {"mine_today": today, "judged": mine.count(), "median_seconds": None},
        "last_judgement": mine.values_list("pk", flat=True).first(),
        "urls": addresses(project, here="annotation:review", following="review-next"),
    }
    return judging_page(request, project, lease, context)


def _decide(request: SignedIn, project: Project) -> HttpResponse:
    lease = _own_lease(request, project)
    answer = _answer(request, project, lease)
    client_id = _uuid(request.POST.get("client_id"))
    if answer is None or client_id is None:
        messages.error(request, _("Nothing was stored: the form came without an answer."))
        return redirect("annotation:review", project.pk)
    try:
        services.submit_judgement(
            lease_id=lease.pk,
            annotator=request.user,
            client_id=client_id,
            choice=answer.pop("choice", None),
            strength=answer.pop("strength", None),
            answers=answer,
            now=timezone.now(),
        )
    except (Conflict, Invalid) as error:
        messages.error(request, str(error))
    return redirect("annotation:review", project.pk)


def _answer(request: SignedIn, project: Project, lease: Lease) -> dict[str, Any] | None:
    """What the button says: an annotator who is right, or a choice of the reviewer's own."""
    for one in conflicting_judgements(lease):
        if request.POST.get("said") == str(one["annotator"]):
            return {key: value for key, value in one.items() if key != "annotator"}
    question = find_question(project.questions, "choice")
    keys = choices_for(question, len(lease.order)) if question else []
    for option in keys:
        if request.POST.get("key") == option.key:
            return {"choice": option.choice, "strength": option.strength}
    return None


def _own_lease(request: SignedIn, project: Project) -> Lease:
    lease = services.lease_of(lease_id=_uuid(request.POST.get("lease")) or NO_LEASE, annotator=request.user)
    if lease.comparison.project_id != project.pk or lease.kind != Kind.REVIEW:
        raise Http404(_("There is no such lease."))
    return lease


def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text or "")
    except ValueError:
        return None
