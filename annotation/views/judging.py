"""The judging page. With scripts it speaks the HTTP API, without its forms post here: the same services."""

import uuid
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from annotation import services
from annotation.browsing import judged_slots, own_judgements
from annotation.choices import choices_for
from annotation.errors import Blocked, Conflict, Invalid
from annotation.feedback import render_feedback
from annotation.keys import whole_map
from annotation.models import Kind, Lease, Project
from annotation.permissions import Action
from annotation.services.eligibility import CONSENT, WITHDRAWN
from annotation.template import find_question
from annotation.views.access import SignedIn, project_for
from annotation.views.words import page_words

PAGE_OF = {CONSENT: "annotation:consent", WITHDRAWN: "annotation:withdraw"}  # where to read on
NO_LEASE = uuid.UUID(int=0)  # stands in address templates for the script


@login_required
@never_cache
@require_GET
def judge(request: SignedIn, pk: int) -> HttpResponse:
    """The comparison that this person has open, or the next one."""
    project = project_for(request, pk, Action.JUDGE)
    now = timezone.now()
    try:
        lease, reason = services.next_lease(project=project, user=request.user, now=now), ""
    except Blocked as blocked:
        if blocked.code in PAGE_OF:
            return redirect(PAGE_OF[blocked.code], pk)
        lease, reason = None, str(blocked)
    if lease is None and not reason:
        reason = services.standing(project=project, user=request.user, now=now)["reason"]
    progress = services.progress(project=project, user=request.user, now=now)
    # Where checks are mixed in, what everybody did would tell which answers filled no slot.
    judged = progress["mine"] if project.has_checks else judged_slots(project, progress)
    mine = own_judgements(project=project, user=request.user).exclude(kind=Kind.REVIEW)
    context = {
        "reason": reason,
        "progress": progress | {"judged": judged},
        "last_judgement": mine.values_list("pk", flat=True).first(),
        "urls": addresses(project, here="annotation:judge", following="project-next"),
    }
    return judging_page(request, project, lease, context)


def judging_page(
    request: SignedIn, project: Project, lease: Lease | None, context: dict[str, Any]
) -> HttpResponse:
    """The page for one person's work or for a reviewer's.

    `context`: `reason` why there is nothing to do, `progress` with `mine_today` and `judged`,
    `last_judgement` that can be taken back, and the `urls` that the script posts to.
    """
    item = services.present(lease, html=True) if lease else None
    context |= {
        "project": project,
        "item": item,
        "kinds": {question["type"] for question in project.questions},
        "seven": item is not None and 'class="keys seven"' in item["form_html"],
        "client_id": uuid.uuid4(),
        "blank_text": {"position": 0},
        "blank_image": {"position": 0, "image": "data:,"},
        "page_data": {
            "user": request.user.pk,
            "project": project.pk,
            "item": item,
            "progress": {
                "today": context["progress"]["mine_today"],
                "judged": context["progress"]["judged"],
            },
            "last_judgement": context["last_judgement"],
            "reason": context["reason"],
            "urls": context["urls"],
            "keys": whole_map(request.user.keys),
            "words": page_words(),
        },
    }
    return render(request, "annotation/judge.html", context)


def addresses(project: Project, *, here: str, following: str) -> dict[str, str]:
    """Where the script posts; the nil UUID and 0 are replaced by the id in question. `here` names the page,
    `following` where the next comparison comes from."""
    return {
        "next": reverse(following, args=[project.pk]),
        "judgement": reverse("lease-judgement", args=[NO_LEASE]),
        "skip": reverse("lease-skip", args=[NO_LEASE]),
        "renew": reverse("lease-renew", args=[NO_LEASE]),
        "undo": reverse("judgement-undo", args=[0]),
        "history": reverse("annotation:history", args=[project.pk]),
        "session": reverse("annotation:session", args=[project.pk]),
        "sign_in": f"{reverse('annotation:sign_in')}?next={reverse(here, args=[project.pk])}",
    }


@login_required
@require_POST
def judge_submit(request: SignedIn, pk: int) -> HttpResponse:
    """A key pressed without scripts."""
    take_key(request, project_for(request, pk, Action.JUDGE))
    return redirect("annotation:judge", pk)


def take_key(request: SignedIn, project: Project) -> None:
    """Store the answer that a form without scripts brought, or say what is wrong with it."""
    lease = _own_lease(request, project)
    question = find_question(project.questions, "choice")
    keys = {choice.key: choice for choice in choices_for(question, len(lease.order))}
    chosen = keys.get(request.POST.get("key", ""))
    client_id = _uuid(request.POST.get("client_id"))
    if chosen is None or client_id is None:
        sentence = _("Nothing was stored: the form came without an answer. Choose one of the keys.")
        messages.error(request, sentence)
        return
    try:
        stored, _following = services.submit_judgement(
            lease_id=lease.pk,
            annotator=request.user,
            client_id=client_id,
            choice=chosen.choice,
            strength=chosen.strength,
            now=timezone.now(),
        )
        if (feedback := services.feedback(stored)) is not None:
            messages.info(request, render_feedback(feedback))
    except (Conflict, Invalid) as error:
        messages.error(request, str(error))


@login_required
@require_POST
def judge_skip(request: SignedIn, pk: int) -> HttpResponse:
    lease = _own_lease(request, project_for(request, pk, Action.JUDGE))
    try:
        reason = request.POST.get("reason", "")
        services.skip_lease(lease_id=lease.pk, annotator=request.user, reason=reason, now=timezone.now())
    except (Conflict, Invalid) as error:
        messages.error(request, str(error))
    return redirect(_page_of(lease), pk)


@login_required
@require_POST
def judge_undo(request: SignedIn, pk: int) -> HttpResponse:
    project_for(request, pk, Action.JUDGE)
    number = request.POST.get("judgement", "")
    if not number.isdecimal():
        raise Http404("There is no such judgement.")
    try:
        lease = services.undo_judgement(judgement_id=int(number), annotator=request.user, now=timezone.now())
    except Conflict as error:
        messages.error(request, str(error))
        return redirect("annotation:judge", pk)
    return redirect(_page_of(lease), pk)


def _page_of(lease: Lease) -> str:
    return "annotation:review" if lease.kind == Kind.REVIEW else "annotation:judge"


def _own_lease(request: SignedIn, project: Project) -> Lease:
    lease_id = _uuid(request.POST.get("lease"))
    lease = services.lease_of(lease_id=lease_id or NO_LEASE, annotator=request.user)
    if lease.comparison.project_id != project.pk:
        raise Http404("There is no such lease.")
    return lease


def _uuid(text: str | None) -> uuid.UUID | None:
    try:
        return uuid.UUID(text or "")
    except ValueError:
        return None
