"""Rounds: what a schedule has started, step by step."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from annotation.errors import Conflict
from annotation.permissions import Action, find
from annotation.views.access import SignedIn
from training import round_browsing, services
from training.models import Round


@login_required
@require_GET
def one_round(request: SignedIn, pk: int) -> HttpResponse:
    """One round. While it runs its steps alone are asked for again."""
    rows = Round.objects.select_related("project", "schedule", "created_by")
    shown = find(rows, request.user, Action.WATCH, pk=pk)
    context = {"project": shown.project, "round": shown, "steps": round_browsing.steps_of(shown)}
    asked = request.headers
    part = asked.get("HX-Request") == "true" and "HX-History-Restore-Request" not in asked
    response = render(request, f"training/{'_' if part else ''}round.html", context)
    response["Vary"] = "HX-Request, Cookie"
    return response


@login_required
@require_POST
def round_action(request: SignedIn, pk: int, action: str) -> HttpResponse:
    """Cancel one that runs, or go on from the step where it ended."""
    changed = find(Round.objects.select_related("project"), request.user, Action.TRAIN, pk=pk)
    act = {"cancel": services.cancel_round, "retry": services.retry_round}[action]
    try:
        act(round_id=changed.pk)
    except Conflict as error:
        messages.error(request, str(error))
    return redirect(changed)
