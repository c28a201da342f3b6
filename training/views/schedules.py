"""Schedules: runs that start by themselves."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from annotation.errors import Invalid
from annotation.permissions import Action, find
from annotation.views.access import SignedIn, project_for
from training import round_browsing, services
from training.models import Schedule
from training.schedule_forms import ScheduleForm

ROUNDS_SHOWN = 50


@login_required
@require_http_methods(["GET", "POST"])
def schedules(request: SignedIn, pk: int) -> HttpResponse:
    project = project_for(request, pk, Action.WATCH, to_post=Action.TRAIN)
    form = ScheduleForm(request.POST or None, project=project)
    if form.is_valid():
        try:
            services.create_schedule(by=request.user, project=project, **form.request)
        except Invalid as error:
            form.refuse(error)
        else:
            return redirect("training:schedules", pk)
    found = Schedule.objects.filter(project=project).order_by("-pk")
    context = {
        "project": project,
        "form": form,
        "schedules": found,
        "rounds": round_browsing.rounds_of(project)[:ROUNDS_SHOWN],
    }
    return render(request, "training/schedules.html", context, status=400 if form.is_bound else 200)


@login_required
@require_POST
def schedule_action(request: SignedIn, pk: int, action: str) -> HttpResponse:
    """Switch it on or off, or delete it."""
    changed = find(Schedule.objects.select_related("project"), request.user, Action.TRAIN, pk=pk)
    if action == "delete":
        services.delete_schedule(schedule=changed)
        said = _("%(name)s is gone; the rounds that it started stay.")
        messages.info(request, said % {"name": changed.name})
    else:
        services.set_enabled(schedule=changed, enabled=action == "enable")
    return redirect("training:schedules", changed.project_id)
