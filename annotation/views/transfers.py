"""What goes in and out of a project, and how far it is."""

import csv
from collections.abc import Iterator
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods

from annotation import services
from annotation.errors import Invalid
from annotation.formats import FORMATS
from annotation.formats.fitting import in_words
from annotation.formats.tables import guarded
from annotation.models import ImportJob, Job, RejectedRow
from annotation.permissions import Action, find
from annotation.transfer_forms import ExportForm, ImportForm
from annotation.views.access import SignedIn, project_for

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
    context = {"project": project, "form": form, "jobs": jobs, "working": working}
    return _page_or_part(request, "exports", context | {"formats": list(_formats(project.modality))})


def _formats(modality: str) -> Iterator[dict[str, str]]:
    for name, form in FORMATS.items():
        if modality in form.holds.modalities:
            answers, beside = in_words(form.holds)
            yield {"name": name, "answers": answers, "beside": beside}


def _is_working(job: Job) -> bool:
    return job.status in {Job.Status.QUEUED, Job.Status.RUNNING}


def _page_or_part(request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
    """One address gives the page, or to htmx only its changing part."""
    part = request.headers.get("HX-Request") == "true" and "HX-History-Restore-Request" not in request.headers
    response = render(request, f"annotation/{'_' if part else ''}{name}.html", context)
    response["Vary"] = "HX-Request, Cookie"
    return response
