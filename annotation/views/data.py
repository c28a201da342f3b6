"""What goes in and out of a project, and a look at what is in it."""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.files.storage import default_storage
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_GET

from annotation.browsing import comparison_in_full, comparisons_of, is_in_hands_of
from annotation.forms import DataFilterForm
from annotation.models import Comparison
from annotation.permissions import Action
from annotation.views.access import SignedIn, project_for

PAGE_SIZE = 50
JOBS_SHOWN = 50
ROWS_SHOWN = 200


@login_required
@require_GET
def browse(request: SignedIn, pk: int) -> HttpResponse:
    """Comparisons with what people said, filtered."""
    project = project_for(request, pk, Action.BROWSE)
    form = DataFilterForm(request.GET or None)
    chosen: dict[str, Any] = form.cleaned_data if form.is_valid() else {}
    page = Paginator(comparisons_of(project, **chosen), PAGE_SIZE).get_page(request.GET.get("page"))
    query = request.GET.copy()
    query.pop("page", None)
    context = {
        "project": project,
        "form": form,
        "page": page,
        "filtered": any(chosen.values()),
        "query": query.urlencode(),
    }
    return render(request, "annotation/data.html", context)


@login_required
@require_GET
def comparison(request: SignedIn, pk: int, comparison: int) -> HttpResponse:
    """Everything about one comparison, candidates in their own order."""
    project = project_for(request, pk, Action.BROWSE)
    shown = get_object_or_404(comparison_in_full(project), pk=comparison)
    context = {
        "project": project,
        "comparison": shown,
        "hide_sources": is_in_hands_of(shown, request.user),
        "before": _neighbour(shown, rank__lt=shown.rank, order="-rank"),
        "after": _neighbour(shown, rank__gt=shown.rank, order="rank"),
    }
    return render(request, "annotation/comparison.html", context)


def _neighbour(shown: Comparison, *, order: str, **condition: int) -> int | None:
    rows = Comparison.objects.filter(project=shown.project_id, **condition).order_by(order)
    return rows.values_list("pk", flat=True).first()


@login_required
@require_GET
def candidate_image(request: SignedIn, pk: int, comparison: int, index: int) -> FileResponse:
    """A candidate's picture, for the project's managers."""
    project = project_for(request, pk, Action.BROWSE)
    shown = get_object_or_404(comparison_in_full(project), pk=comparison)
    image = next((one.image for one in shown.candidates.all() if one.index == index), None)
    if image is None:
        raise Http404("This candidate is not a picture.")
    response = FileResponse(default_storage.open(image.storage_key), content_type="image/png")
    response["Cache-Control"] = "private, max-age=3600"
    response["X-Content-Type-Options"] = "nosniff"
    return response
