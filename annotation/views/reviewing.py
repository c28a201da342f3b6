"""The review page: what people disagree about, what they said, and the answer that decides."""

import uuid
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from annotation import services
from annotation.choices import choices_for
from annotation.errors import Conflict, Invalid
from annotation.feedback import answer_in_words
from annotation.models import Kind, Lease, Project
from annotation.permissions import Action
from annotation.services.reviewing import conflicting_judgements
from annotation.template import find_question
from annotation.views.access import SignedIn, project_for

NO_LEASE = uuid.UUID(int=0)


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def review(request: SignedIn, pk: int) -> HttpResponse:
    """The next comparison that its judges disagree about; a button decides it."""
    project = project_for(request, pk, Action.REVIEW)
    if request.method == "POST":
        return _decide(request, project)
    lease = services.next_review(project=project, user=request.user, now=timezone.now())
    item = services.present(lease, html=True) if lease else None
    question = find_question(project.questions, "choice")
    context = {
        "project": project,
        "item": item,
        "choices": choices_for(question, len(item["candidates"])) if item and question else [],
        "said": [(one["annotator"], answer_in_words(one)) for one in item["judgements"]] if item else [],
        "waiting": services.reviews_waiting(project),
        "client_id": uuid.uuid4(),
    }
    return render(request, "annotation/review.html", context)


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
