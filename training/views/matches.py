"""Matches: which of two models do people prefer, without knowing which is which."""

from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from annotation.errors import Invalid
from annotation.permissions import Action, find
from annotation.views.access import SignedIn, project_for
from training import browsing, services
from training.forms import MatchForm
from training.models import Match


@login_required
@require_http_methods(["GET", "POST"])
def matches(request: SignedIn, pk: int) -> HttpResponse:
    """The list, and the form that queues one more; `?left=…&right=…` fills it."""
    project = project_for(request, pk, Action.WATCH, to_post=Action.TRAIN)
    given = {name: request.GET[name] for name in ("left", "right") if name in request.GET}
    form = MatchForm(request.POST or None, project=project, initial=given)
    if form.is_valid():
        try:
            match = services.create_match(by=request.user, project=project, **form.cleaned_data)
        except Invalid as error:
            form.refuse(error)
        else:
            return redirect(match)
    found = list(browsing.matches_of(project)[: browsing.MATCHES_SHOWN])
    rates = services.win_rates(found)
    shown = [_described(match, rates[match.pk]) for match in found]
    context = {"project": project, "form": form, "matches": shown}
    return render(request, "training/matches.html", context, status=400 if form.is_bound else 200)


@login_required
@require_GET
def match(request: SignedIn, pk: int) -> HttpResponse:
    """One match. While models answer or people judge, its figures alone are asked for again."""
    rows = Match.objects.select_related("project", "left_run__base", "right_run__base", "created_by")
    shown = find(rows, request.user, Action.WATCH, pk=pk)
    context = {
        "project": shown.project,
        **_described(shown, services.win_rate(shown)),
        "progress": browsing.match_progress(shown),
    }
    asked = request.headers
    part = asked.get("HX-Request") == "true" and "HX-History-Restore-Request" not in asked
    response = render(request, f"training/{'_' if part else ''}match.html", context)
    response["Vary"] = "HX-Request, Cookie"
    return response


def _described(match: Match, result: dict[str, Any]) -> dict[str, Any]:
    names = [services.name_of_base(run) for run in (match.left_run, match.right_run)]
    preferred = {"view": "gallery", "use": "held-out", "outcome": "won"}
    data = reverse("annotation:data", args=[match.project_id])
    return {
        "match": match,
        "left": names[0],
        "right": names[1],
        "galleries": [f"{data}?{urlencode(preferred | {'source': name})}" for name in names],
        "result": result,
    }
