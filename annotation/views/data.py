"""What goes in and out of a project, and a look at what is in it."""

import csv
from collections.abc import Iterator
from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.files.storage import default_storage
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from annotation import services
from annotation.browsing import comparison_in_full, comparisons_of, is_in_hands_of
from annotation.errors import Invalid
from annotation.formats.tables import guarded
from annotation.forms import DataFilterForm
from annotation.models import Comparison, ImportJob, Job, RejectedRow
from annotation.permissions import Action, find
from annotation.transfer_forms import ExportForm, ImportForm
from annotation.views.access import SignedIn, project_for

PAGE_SIZE = 50
JOBS_SHOWN = 50
ROWS_SHOWN = 200


@login_required
@require_http_methods(["GET", "POST"])
def imports(request: SignedIn, pk: int) -> HttpResponse:
    project = project_for(request, pk, Action.EDIT)
    form = ImportForm(request.POST or None, request.FILES or None, modality=project.modality)
    if form.is_valid():
        try:
            job = services.start_import(project=project, by=request.user, **form.cleaned_data)
        except Invalid as error:
            form.refuse(error)
        else:
            return redirect("annotation:import", job.pk)
    jobs = project.importjobs.select_related("created_by").order_by("-pk")[:JOBS_SHOWN]
    status = 400 if form.is_bound else 200
    return render(
        request, "annotation/imports.html", {"project": project, "form": form, "jobs": jobs}, status=status
    )


@login_required
@require_GET
def import_detail(request: SignedIn, pk: int) -> HttpResponse:
    """One import. While it runs, its state alone is asked for again and again."""
    found = ImportJob.objects.select_related("project", "created_by")
    job = find(found, request.user, Action.EDIT, pk=pk)
    rows = job.rejected_rows.order_by("line", "pk")[:ROWS_SHOWN]
    context = {
        "project": job.project,
        "job": job,
        "rows": rows,
        "working": _is_working(job),
        "shown": ROWS_SHOWN,
    }
    return _page_or_part(request, "import", context)


@login_required
@require_GET
def rejected_rows(request: SignedIn, pk: int) -> StreamingHttpResponse:
    """All rejected rows of an import as a table with line, field and reason."""
    job = find(ImportJob.objects.all(), request.user, Action.EDIT, pk=pk)
    rows = RejectedRow.objects.filter(job=job).order_by("line", "pk").values_list("line", "field", "reason")
    response = StreamingHttpResponse(_csv_lines(rows.iterator()), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="import-{pk}-rejected.csv"'
    return response


class _Echo:
    def write(self, line: str) -> str:
        return line


def _csv_lines(rows: Iterator[tuple[int, str, str]]) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield writer.writerow(["line", "field", "reason"])
    for line, *texts in rows:
        yield writer.writerow([line, *map(guarded, texts)])


@login_required
@require_http_methods(["GET", "POST"])
def exports(request: SignedIn, pk: int) -> HttpResponse:
    project = project_for(request, pk, Action.EXPORT)
    form = ExportForm(request.POST or None, modality=project.modality)
    if form.is_valid():
        try:
            chosen = {name: form.cleaned_data[name] for name in ("format", "container")}
            services.start_export(project=project, by=request.user, filters=form.filters, **chosen)
        except Invalid as error:
            form.refuse(error)
        else:
            return redirect("annotation:exports", pk)
    jobs = list(project.exportjobs.select_related("created_by").order_by("-pk")[:JOBS_SHOWN])
    working = any(_is_working(job) for job in jobs)
    return _page_or_part(
        request, "exports", {"project": project, "form": form, "jobs": jobs, "working": working}
    )


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


def _is_working(job: Job) -> bool:
    return job.status in {Job.Status.QUEUED, Job.Status.RUNNING}


def _page_or_part(request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
    """One address gives the page, or to htmx only its changing part."""
    part = request.headers.get("HX-Request") == "true" and "HX-History-Restore-Request" not in request.headers
    response = render(request, f"annotation/{'_' if part else ''}{name}.html", context)
    response["Vary"] = "HX-Request, Cookie"
    return response
