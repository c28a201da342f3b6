"""A look at what is in a project, and changes by hand."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.files.storage import default_storage
from django.db.models import QuerySet
from django.http import FileResponse, Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation import services
from annotation.browsing import comparison_in_full, is_in_hands_of
from annotation.data_browsing import (
    MOST_COUNTED,
    Page,
    cards_of,
    comparisons_of,
    count_of,
    for_gallery,
    for_table,
    judgements_of,
    page_of,
)
from annotation.data_forms import (
    ContentForm,
    CorrectionForm,
    DataFilterForm,
    JudgementFilterForm,
    OverlapForm,
    ReasonForm,
)
from annotation.errors import Conflict, Invalid
from annotation.forms import PageForm
from annotation.models import Comparison, Judgement, Media, Project
from annotation.permissions import Action
from annotation.quality_pages import consensus_about
from annotation.services.media import pictures_of_prompt
from annotation.views.access import SignedIn, project_for


@login_required
@require_GET
def browse(request: SignedIn, pk: int) -> HttpResponse:
    """Comparisons with what people said, filtered and searched; with `?view=gallery` what they compare."""
    project = project_for(request, pk, Action.BROWSE)
    form = DataFilterForm(request.GET or None)
    chosen: dict[str, Any] = form.cleaned_data if form.is_valid() else {}
    rows = comparisons_of(project, chosen)
    gallery = chosen.get("view") == "gallery"
    shown = for_gallery(rows, chosen) if gallery else for_table(rows)
    page = page_of(shown, "rank", **position_of(request))
    context = _context(request, project, form, chosen, page, rows.order_by("rank"))
    context["gallery"] = gallery
    if gallery:
        context["cards"] = cards_of(page, request.user)
    return render(request, "annotation/data.html", context)


@login_required
@require_GET
def judgements(request: SignedIn, pk: int) -> HttpResponse:
    """Judgements, newest first, filtered."""
    project = project_for(request, pk, Action.BROWSE)
    form = JudgementFilterForm(request.GET or None)
    chosen: dict[str, Any] = form.cleaned_data if form.is_valid() else {}
    rows = judgements_of(project, chosen)
    page = page_of(rows, "pk", descending=True, **position_of(request))
    return render(request, "annotation/judgements.html", _context(request, project, form, chosen, page, rows))


def position_of(request: SignedIn) -> dict[str, Any]:
    """From which row on; nonsense in the address is the beginning."""
    found = {}
    for name in ("before", "after"):
        value = request.GET.get(name, "")
        if value.removeprefix("-").isdecimal() and value.isascii() and len(value) < 19:
            found[name] = int(value)
    return found


def query_of(request: SignedIn) -> str:
    """The filters of this page, for the links to the rows before and behind."""
    query = request.GET.copy()
    for name in ("before", "after"):
        query.pop(name, None)
    return query.urlencode()


def _context(
    request: SignedIn,
    project: Project,
    form: forms.Form,
    chosen: dict[str, Any],
    page: Page,
    rows: QuerySet[Any],
) -> dict[str, Any]:
    return {
        "project": project,
        "form": form,
        "page": page,
        "count": count_of(rows),
        "most": MOST_COUNTED,
        "filtered": any(value for name, value in chosen.items() if name != "view"),
        "query": query_of(request),
    }


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
        "may_edit": Project.objects.visible_to(request.user, Action.EDIT).filter(pk=pk).exists(),
        "consensus": consensus_about(shown),
        "overlap": OverlapForm(initial={"labels": shown.needed}),
        "before": _neighbour(shown, rank__lt=shown.rank, order="-rank"),
        "after": _neighbour(shown, rank__gt=shown.rank, order="rank"),
    }
    return render(request, "annotation/comparison.html", context)


def _neighbour(shown: Comparison, *, order: str, **condition: int) -> int | None:
    rows = Comparison.objects.filter(project=shown.project_id, **condition).order_by(order)
    return rows.values_list("pk", flat=True).first()


@login_required
@require_http_methods(["GET", "POST"])
def comparison_edit(request: SignedIn, pk: int, comparison: int) -> HttpResponse:
    """Change a comparison that nobody has judged."""
    project = project_for(request, pk, Action.EDIT)
    shown = get_object_or_404(comparison_in_full(project), pk=comparison)
    form = ContentForm(request.POST or None, comparison=shown)
    if form.is_valid() and _done(
        form, lambda: services.edit_comparison(comparison=shown, **form.changes(shown))
    ):
        return redirect("annotation:comparison", pk, comparison)
    context = {"project": project, "comparison": shown, "form": form}
    return render(request, "annotation/comparison_edit.html", context, status=400 if form.is_bound else 200)


@login_required
@require_POST
def overlap(request: SignedIn, pk: int, comparison: int) -> HttpResponse:
    """Have a comparison judged by more people, or by fewer."""
    project = project_for(request, pk, Action.EDIT)
    shown = get_object_or_404(project.comparisons, pk=comparison)
    form = OverlapForm(request.POST)
    if not form.is_valid():
        messages.error(request, " ".join(map(str, form.errors["labels"])))
    else:
        try:
            services.set_overlap(project=project, comparisons=[shown.pk], **form.cleaned_data)
        except Conflict as error:
            messages.error(request, str(error))
        else:
            messages.info(request, _("Saved."))
    return redirect("annotation:comparison", pk, comparison)


@login_required
@require_POST
def comparison_delete(request: SignedIn, pk: int, comparison: int) -> HttpResponse:
    """Delete a comparison with everything that was said about it."""
    project = project_for(request, pk, Action.EDIT)
    services.delete_comparison(comparison=get_object_or_404(project.comparisons, pk=comparison))
    messages.success(request, _("The comparison was deleted."))
    return redirect("annotation:data", pk)


@login_required
@require_http_methods(["GET", "POST"])
def judgement_edit(request: SignedIn, pk: int, judgement: int) -> HttpResponse:
    """Correct a judgement, or set it aside; either needs a reason and is kept."""
    project = project_for(request, pk, Action.EDIT)
    rows = Judgement.objects.filter(comparison__project=project).select_related("comparison", "annotator")
    shown = get_object_or_404(rows, pk=judgement)
    aside = "aside" in request.POST
    given = None if aside else request.POST or None
    correction = CorrectionForm(given, initial=CorrectionForm.initial_of(shown))
    reason = ReasonForm(request.POST if aside else None)
    now, by = timezone.now(), request.user
    if aside and reason.is_valid():
        why = reason.cleaned_data["reason"]
        if _done(reason, lambda: services.set_aside_judgement(judgement=shown, by=by, reason=why, now=now)):
            return redirect("annotation:comparison", pk, shown.comparison_id)
    if not aside and correction.is_valid():
        values = correction.cleaned_data
        if _done(correction, lambda: services.correct_judgement(judgement=shown, by=by, now=now, **values)):
            return redirect("annotation:comparison", pk, shown.comparison_id)
    context = {"project": project, "judgement": shown, "form": correction, "aside": reason}
    return render(request, "annotation/judgement_edit.html", context, status=400 if request.POST else 200)


def _done(form: PageForm, work: Callable[[], object]) -> bool:
    """Whether the service did it; what it refuses stands in the form."""
    try:
        work()
    except Invalid as error:
        form.refuse(error)
    except Conflict as error:
        form.add_error(None, str(error))
    return not form.errors


@login_required
@require_GET
def candidate_image(request: SignedIn, pk: int, comparison: int, index: int) -> FileResponse:
    """A candidate's picture, for the project's managers."""
    project = project_for(request, pk, Action.BROWSE)
    shown = get_object_or_404(comparison_in_full(project), pk=comparison)
    image = next((one.image for one in shown.candidates.all() if one.index == index), None)
    return _picture(image)


@login_required
@require_GET
def prompt_image(request: SignedIn, pk: int, comparison: int, number: int) -> FileResponse:
    """A picture of the prompt, counted from 0, for who may look at the project's data."""
    project = project_for(request, pk, Action.BROWSE)
    shown = get_object_or_404(project.comparisons, pk=comparison)
    pictures = pictures_of_prompt(shown.prompt)
    return _picture(pictures[number] if number < len(pictures) else None)


def _picture(image: Media | None) -> FileResponse:
    if image is None:
        raise Http404("There is no such picture.")
    response = FileResponse(default_storage.open(image.storage_key), content_type="image/png")
    response["Cache-Control"] = "private, max-age=3600"
    response["X-Content-Type-Options"] = "nosniff"
    return response
