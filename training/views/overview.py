"""Four of the five answers on a project's page, fetched by it after it is there."""

from datetime import timedelta
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from annotation.permissions import Action
from annotation.views.access import SignedIn, project_for
from training import browsing, services

RECENT = timedelta(days=7)


@login_required
@require_GET
def overview(request: SignedIn, pk: int) -> HttpResponse:
    """Is the reward right? Is the model better? What is running? What needs me?"""
    project = project_for(request, pk, Action.WATCH)
    reward = browsing.newest_reward_model(project)
    match = browsing.newest_match(project)
    context: dict[str, Any] = {
        "project": project,
        "reward": reward,
        "match": match,
        "result": services.win_rate(match) if match else {},
        "working": browsing.work_in_hand(project),
        "needs": browsing.needs_of(project, since=timezone.now() - RECENT),
    }
    if reward:
        context["known_by"], context["accuracy"] = browsing.trust_in(reward)
    if match:
        context["left"] = services.name_of_base(match.left_run)
        context["right"] = services.name_of_base(match.right_run)
    return render(request, "training/_overview.html", context)
