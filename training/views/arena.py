"""The arena: ask two models, judge without knowing which is which, and then see."""

import uuid
from collections.abc import Callable
from typing import Any, Final

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation.errors import Blocked, Conflict, Invalid, TooMany
from annotation.keys import whole_map
from annotation.models import Lease, Project
from annotation.permissions import ALLOWED, Action
from annotation.quality.leaderboard import as_data
from annotation.quality_pages import drawn
from annotation.services import member_of, present
from annotation.views.access import SignedIn, project_for
from annotation.views.judging import NO_LEASE, PAGE_OF, take_key
from annotation.views.words import page_words
from training import arena_browsing, services
from training.forms import ArenaForm, PromptForm
from training.models import Arena, Duel

ACTIONS: Final[dict[str, Callable[..., Any]]] = {
    "more": lambda request, duel: services.say_more(
        duel=duel, user=request.user, message=request.POST.get("prompt", "")
    ),
    "retry": lambda request, duel: services.try_again(duel=duel, user=request.user),
    "leave": lambda request, duel: services.abandon(duel=duel),
}


@login_required
@never_cache
@require_http_methods(["GET", "POST"])
def arena(request: SignedIn, pk: int) -> HttpResponse:
    """What to ask, one's own questions, and for those who may see them the points of the models."""
    project = project_for(request, pk, Action.SEE, to_post=Action.JUDGE)
    form = PromptForm(request.POST or None)
    if form.is_valid():
        try:
            asked = services.ask(project=project, user=request.user, now=timezone.now(), **form.cleaned_data)
        except Invalid as error:
            form.refuse(error)
        except (Blocked, Conflict, TooMany) as error:
            return _refused(request, project, error)
        else:
            return redirect(asked)
    found = Arena.objects.filter(project=project).first()
    return _arena_page(request, project, found, form=form, status=400 if form.is_bound else 200)


@login_required
@require_POST
def arena_models(request: SignedIn, pk: int) -> HttpResponse:
    """Which models take part, and whether the arena is open."""
    project = project_for(request, pk, Action.TRAIN)
    found = Arena.objects.filter(project=project).first()
    models = ArenaForm(request.POST, project=project, arena=found)
    if models.is_valid():
        try:
            services.set_arena(by=request.user, project=project, **models.cleaned_data)
        except Invalid as error:
            models.refuse(error)
        else:
            messages.info(request, _("Saved."))
            return redirect("training:arena", pk)
    return _arena_page(request, project, found, models=models, status=400)


def _arena_page(
    request: SignedIn,
    project: Project,
    arena: Arena | None,
    *,
    form: PromptForm | None = None,
    models: ArenaForm | None = None,
    status: int = 200,
) -> HttpResponse:
    role = member_of(project, request.user.pk).role
    context: dict[str, Any] = {
        "project": project,
        "arena": arena,
        "form": form or PromptForm(),
        "may_ask": role in ALLOWED[Action.JUDGE],
    }
    if arena is not None:
        context["waiting"] = next(iter(services.open_duels(arena, request.user)), None)
        context["mine"] = arena_browsing.judged_duels_of(arena, request.user)
        if role in ALLOWED[Action.BROWSE]:
            context |= {"shows_board": True, **drawn(as_data(services.standings(arena)))}
    if role in ALLOWED[Action.TRAIN]:
        context["models"] = models or ArenaForm(project=project, arena=arena)
    return render(request, "training/arena.html", context, status=status)


@login_required
@never_cache
@require_GET
def duel(request: SignedIn, pk: int) -> HttpResponse:
    """One's own question: the wait for the answers, then the judging, then who they were."""
    shown = services.duel_of(pk=pk, user=request.user)
    judged = services.is_judged(shown)
    part = request.headers.get("HX-Request") == "true" and "HX-History-Restore-Request" not in request.headers
    if part:
        return _progress(request, shown)
    if not judged and not services.can_be_judged(shown):
        context = {"project": shown.arena.project, **arena_browsing.duel_progress(shown)}
        return render(request, "training/duel_waiting.html", context)
    return _judging_page(request, shown, judged=judged)


def _progress(request: SignedIn, shown: Duel) -> HttpResponse:
    """The part that a waiting page asks for again; the whole page anew when there is something new."""
    response = render(request, "training/_duel_progress.html", arena_browsing.duel_progress(shown))
    response["Vary"] = "HX-Request, Cookie"
    if shown.status != Duel.Status.GENERATING:
        response["HX-Refresh"] = "true"
    return response


def _judging_page(request: SignedIn, shown: Duel, *, judged: bool) -> HttpResponse:
    project = shown.arena.project
    assert shown.lease is not None
    item = present(Lease.objects.to_present().get(pk=shown.lease.pk), html=True)
    context: dict[str, Any] = {
        "project": project,
        "duel": shown,
        "item": item,
        "judged": judged,
        "kinds": {question["type"] for question in project.questions},
        "seven": 'class="keys seven"' in item["form_html"],
        "client_id": uuid.uuid4(),
        "blank_text": {"position": 0},
        "blank_image": {"position": 0, "image": "data:,"},
        "page_data": {
            "user": request.user.pk,
            "item": item,
            "keys": whole_map(request.user.keys),
            "words": page_words(),
            "urls": {
                "judgement": reverse("lease-judgement", args=[shown.lease.pk]),
                "sign_in": f"{reverse('annotation:sign_in')}?next={shown.get_absolute_url()}",
            },
        },
    }
    if judged:
        outcome = context["outcome"] = arena_browsing.outcome_of(shown)
        for candidate, name in zip(item["candidates"], outcome.names, strict=True):
            candidate |= {"model": name, "chosen": candidate["position"] == outcome.choice}
    return render(request, "training/duel.html", context)


@login_required
@require_POST
def duel_vote(request: SignedIn, pk: int) -> HttpResponse:
    """A key pressed without scripts."""
    shown = services.duel_of(pk=pk, user=request.user)
    if request.POST.get("lease", str(NO_LEASE)) == str(shown.lease_id):
        take_key(request, shown.arena.project)
    return redirect(shown)


@login_required
@require_POST
def duel_action(request: SignedIn, pk: int, action: str) -> HttpResponse:
    """Say more to both models, have them try again, or leave."""
    shown = services.duel_of(pk=pk, user=request.user)
    try:
        ACTIONS[action](request, shown)
    except (Blocked, Conflict, Invalid, TooMany) as error:
        return _refused(request, shown.arena.project, error, shown)
    return redirect("training:arena", shown.arena.project_id) if action == "leave" else redirect(shown)


def _refused(request: SignedIn, project: Project, error: Exception, back: Duel | None = None) -> HttpResponse:
    if isinstance(error, Blocked) and error.code in PAGE_OF:
        return redirect(PAGE_OF[error.code], project.pk)
    messages.error(request, str(error))
    return redirect(back) if back is not None else redirect("training:arena", project.pk)
