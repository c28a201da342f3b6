"""What lies beside the work: guidelines, history, one's own figures, and where one's keys are.

The drawer of the judging page asks for the parts alone; each is also a page."""

from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation import services
from annotation.browsing import days_in_a_row, own_judgements
from annotation.errors import Invalid
from annotation.forms import KeysForm
from annotation.permissions import Action
from annotation.views.access import SignedIn, project_for

HISTORY_LENGTH = 20
THEMES = ("light", "dark")
YEAR = timedelta(days=365)


@login_required
@never_cache
@require_GET
def history(request: SignedIn, pk: int) -> HttpResponse:
    """One's own last judgements, each of which can be changed."""
    project = project_for(request, pk, Action.JUDGE)
    mine = own_judgements(project=project, user=request.user)
    return _page_or_part(request, "history", {"project": project, "judgements": mine[:HISTORY_LENGTH]})


@login_required
@never_cache
@require_GET
def session(request: SignedIn, pk: int) -> HttpResponse:
    """One's own progress; the script adds what this device knows of the session."""
    project = project_for(request, pk, Action.JUDGE)
    now = timezone.now()
    progress = services.progress(project=project, user=request.user, now=now)
    days = days_in_a_row(project=project, user=request.user, today=timezone.localdate(now))
    return _page_or_part(request, "session", {"project": project, "progress": progress, "days": days})


def _page_or_part(request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
    response = render(request, f"annotation/{'_' if _wants_part(request) else ''}{name}.html", context)
    response["Vary"] = "HX-Request, Cookie"
    return response


def _wants_part(request: HttpRequest) -> bool:
    return request.headers.get("HX-Request") == "true" and "HX-History-Restore-Request" not in request.headers


@login_required
@require_GET
def guidelines(request: SignedIn, pk: int) -> HttpResponse:
    return render(request, "annotation/guidelines.html", {"project": project_for(request, pk, Action.SEE)})


@login_required
@require_http_methods(["GET", "POST"])
def keys(request: SignedIn) -> HttpResponse:
    """Where this person's keys of the judging page are."""
    if "reset" in request.POST:
        services.move_keys(user=request.user, keys={})
        return redirect("annotation:keys")
    form = KeysForm(request.POST or None, moved=request.user.keys)
    if form.is_valid():
        try:
            services.move_keys(user=request.user, keys=form.chosen)
        except Invalid as error:
            form.refuse_keys(error)
        else:
            messages.info(request, _("Saved. The judging page uses these keys from now on."))
            return redirect("annotation:keys")
    return render(request, "annotation/keys.html", {"form": form})


@require_POST
def theme(request: HttpRequest) -> HttpResponse:
    """Light or dark on this device, or as the device is set; then back to the page."""
    back = request.POST.get("next", "")
    allowed = url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure())
    response = redirect(back if allowed else "annotation:home")
    if (chosen := request.POST.get("theme")) in THEMES:
        response.set_cookie(
            "theme", chosen, max_age=YEAR, httponly=True, samesite="Lax", secure=request.is_secure()
        )
    else:
        response.delete_cookie("theme")
    return response
