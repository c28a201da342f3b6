"""What a job gave, to look at: texts and pictures as cards."""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from annotation.errors import NotFound
from annotation.permissions import Action, find
from annotation.views.access import SignedIn
from annotation.views.data import position_of, query_of
from training import galleries, services
from training.forms import GalleryForm
from training.models import Run


@login_required
@require_GET
def run_gallery(request: SignedIn, pk: int) -> HttpResponse:
    """Candidates by their scores, or what a model wrote or drew, filtered."""
    shown = _job(request, pk)
    form = GalleryForm(request.GET or None, has_scores=shown.gives_scores)
    chosen: dict[str, Any] = form.cleaned_data if form.is_valid() else {}
    context = {
        "project": shown.project,
        "run": shown,
        "form": form,
        "found": galleries.gallery_of(shown, chosen, user=request.user, **position_of(request)),
        "most": galleries.MOST_SHOWN,
        "filtered": any(chosen[name] not in ("", None) for name in chosen if name != "order"),
        "query": query_of(request),
    }
    return render(request, "training/gallery.html", context)


@login_required
@require_GET
def run_picture(request: SignedIn, pk: int, name: str) -> HttpResponse:
    """A picture that the run drew, or one that it scored."""
    picture = services.read_picture(_job(request, pk), name)
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return HttpResponse(picture, content_type="image/png", headers=headers)


def _job(request: SignedIn, pk: int) -> Run:
    """A run that gave something to look at. Whoever may watch runs may also browse the project's data.

    What somebody asks in the arena is shown to nobody here: it would tell them which model answered.
    """
    run = find(Run.objects.select_related("project", "snapshot"), request.user, Action.WATCH, pk=pk)
    gave = run.status == Run.Status.DONE and (run.gives_scores or run.writes_answers)
    if not gave or services.belongs_to_duel(run):
        raise NotFound(_("Run %(pk)s has nothing to look at.") % {"pk": run.pk})
    return run
