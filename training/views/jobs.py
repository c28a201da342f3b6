"""Jobs: a model writes answers, rewards score candidates."""

from collections.abc import Callable
from typing import Final

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_http_methods, require_POST

from annotation.errors import Conflict, Invalid
from annotation.models import Comparison, Project, QueueStrategy
from annotation.permissions import Action, find
from annotation.views.access import SignedIn, project_for
from training import services
from training.forms import JobForm
from training.models import Run
from training.services.evaluating import EVALUATE
from training.services.jobs import GENERATE, SCORE
from training.tuning.registry import get_method
from training.views.words import criteria_of

NAMES: Final = {"generate": GENERATE, "score": SCORE, "evaluate": EVALUATE}
CREATE: Final[dict[str, Callable[..., Run]]] = {
    "generate": services.create_generation,
    "score": services.create_scoring,
    "evaluate": services.create_evaluation,
}


@login_required
@require_http_methods(["GET", "POST"])
def job_new(request: SignedIn, pk: int, job: str) -> HttpResponse:
    """A form that the job's schema makes, and the run that it starts."""
    project = project_for(request, pk, Action.TRAIN)
    if job not in NAMES:
        raise Http404(_("There is no such job."))
    method = get_method(NAMES[job][project.modality])
    improved = picture_of(project, request.GET.get("improve")) if job == "generate" else None
    form = JobForm(
        request.POST or None,
        request.FILES or None,
        project=project,
        method=method,
        improve=improved,
        base=request.GET.get("base", ""),
    )
    if form.is_valid():
        more = {"improve": improved} if improved else {}
        try:
            run = CREATE[job](by=request.user, project=project, **form.request, **more)
        except Invalid as error:
            form.refuse(error)
        else:
            return redirect(run)
    context = {"project": project, "method": method, "form": form, "job": job, "improved": improved}
    return render(request, "training/job_new.html", context, status=400 if form.is_bound else 200)


def picture_of(project: Project, number: str | None) -> Comparison | None:
    """The comparison whose pictures shall be improved, if one is named."""
    if number is None or project.modality != "image":
        return None
    if not number.isdecimal():
        raise Http404
    return get_object_or_404(Comparison.objects.filter(project=project), pk=number)


@login_required
@require_POST
def run_suggestions(request: SignedIn, pk: int) -> HttpResponse:
    """Store what a scoring says as suggestions to annotators."""
    run = find(Run.objects.select_related("project"), request.user, Action.TRAIN, pk=pk)
    try:
        count = services.suggest_scores(run=run)
    except Conflict as error:
        messages.error(request, str(error))
        return redirect(run)
    sentence = ngettext("%(count)s suggestion is stored.", "%(count)s suggestions are stored.", count)
    said = sentence % {"count": count}
    if not run.project.show_suggestions:
        said += " " + _("Annotators do not see it: the project hides suggestions.")
    messages.info(request, said)
    return redirect(run)


@login_required
@require_POST
def run_priorities(request: SignedIn, pk: int) -> HttpResponse:
    """Order the queue by what a scoring's ensemble, or its features, would learn most from."""
    run = find(Run.objects.select_related("project"), request.user, Action.TRAIN, pk=pk)
    by = request.POST.get("by") or next(iter(criteria_of(run)), "batch_information")
    try:
        count = services.prioritise(run=run, by=by)["first"]
    except (Conflict, Invalid) as error:
        messages.error(request, str(error))
        return redirect(run)
    sentence = ngettext(
        "%(count)s comparison is in the new order.", "%(count)s comparisons are in the new order.", count
    )
    said = sentence % {"count": count}
    if run.project.queue_strategy != QueueStrategy.PRIORITY:
        said += " " + _("The queue does not follow it: choose “By priority” for the project's work.")
    messages.info(request, said)
    return redirect(run)


@login_required
@require_POST
def run_comparisons(request: SignedIn, pk: int) -> HttpResponse:
    """Queue what a generation wrote for judging."""
    run = find(Run.objects.select_related("project"), request.user, Action.TRAIN, pk=pk)
    try:
        added = services.add_answers(run=run)
    except Conflict as error:
        messages.error(request, str(error))
        return redirect(run)
    sentence = ngettext(
        "%(count)s comparison is queued.", "%(count)s comparisons are queued.", added["added"]
    ) % {"count": added["added"]}
    if added["alike"]:
        alike = ngettext(
            "%(count)s prompt had no two different answers.",
            "%(count)s prompts had no two different answers.",
            added["alike"],
        )
        sentence += " " + alike % {"count": added["alike"]}
    messages.info(request, sentence)
    return redirect(run)
