"""Runs: the list, a new one, one with its curves, two on one chart."""

import hashlib
import json
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import FileResponse, Http404, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation.errors import Conflict, Invalid
from annotation.models import Project
from annotation.permissions import Action, find
from annotation.views.access import SignedIn, project_for
from training import browsing, comparing, services
from training.forms import RunForm, UploadForm
from training.models import Run
from training.services.naming import REWARD_MODELS
from training.tuning.registry import Method, get_method
from training.views.words import chart_words, criteria_of, running_sentence

RUNS_SHOWN = 100
LOG_LINES = 100
PREVIEW_ROWS = 20


@login_required
@require_GET
def runs(request: SignedIn, pk: int) -> HttpResponse:
    project = project_for(request, pk, Action.WATCH)
    found = list(browsing.runs_of(project)[:RUNS_SHOWN])
    context = {
        "project": project,
        "runs": [(run, get_method(run.method)) for run in found if not run.is_job],
        "jobs": [(run, get_method(run.method)) for run in found if run.is_job],
        "counts": browsing.training_counts(project),
    }
    return render(request, "training/runs.html", context)


@login_required
@require_http_methods(["GET", "POST"])
def run_new(request: SignedIn, pk: int) -> HttpResponse:
    """A run from a form that the method's schema makes. `?like=<run>` fills it with another run's values."""
    project = project_for(request, pk, Action.TRAIN)
    choices = browsing.method_choices(project)
    like = _run_to_copy(project, request.GET.get("like", ""))
    method = _chosen_method(choices, like.method if like else request.GET.get("method", ""))
    form = RunForm(request.POST or None, project=project, method=method, like=like)
    if form.is_valid():
        start = "start" in request.POST
        try:
            run = services.create_run(
                by=request.user,
                project=project,
                method=method.name,
                over_http=True,
                start=start,
                **form.request,
            )
        except Invalid as error:
            form.refuse(error)
        else:
            return redirect(run)
    context = {
        "project": project,
        "choices": choices,
        "method": method,
        "form": form,
        "counts": browsing.training_counts(project),
        "like": like,
    }
    return render(request, "training/run_new.html", context, status=400 if form.is_bound else 200)


def _run_to_copy(project: Project, number: str) -> Run | None:
    if not number.isdecimal():
        return None
    return browsing.runs_of(project).filter(pk=int(number)).first()


def _chosen_method(choices: list[browsing.MethodChoice], name: str) -> Method:
    """The one that was asked for; else one that tunes and is allowed; else the first."""
    by_name = {choice.method.name: choice.method for choice in choices}
    if name and name not in by_name:
        raise Http404(_("There is no method %(name)s for this project.") % {"name": name})
    tuning = [one.method for one in choices if one.allowed and one.method.name not in (*REWARD_MODELS, "sft")]
    return by_name[name] if name else (tuning or [choices[0].method])[0]


@login_required
@require_GET
def run(request: SignedIn, pk: int) -> HttpResponse:
    shown = find(browsing.run_rows(), request.user, Action.WATCH, pk=pk)
    metrics = services.metrics_of(shown)
    evaluations = browsing.evaluations_of(shown)
    context = {
        "project": shown.project,
        "run": shown,
        "method": get_method(shown.method),
        "base": services.name_of_base(shown),
        "result": f"checkpoint:{shown.checkpoint.pk}" if hasattr(shown, "checkpoint") else "",
        "command": browsing.command_of(shown),
        "samples": browsing.samples_of(shown),
        "figures": browsing.figures_of(metrics),
        "progress": _progress(shown, metrics),
        "log": _end_of(shown.log_tail),
        "accuracy": browsing.accuracy_of(shown.checkpoint) if hasattr(shown, "checkpoint") else {},
        "report": browsing.report_on(shown, evaluations),
        "evaluations": evaluations,
        "curves": {} if shown.is_job else services.overoptimisation_of(shown, metrics),
        "chart_words": chart_words(),
        "criteria": criteria_of(shown),
        "rows": (shown.preview or {}).get("rows", [])[:PREVIEW_ROWS],
        "is_reward_model": shown.method in REWARD_MODELS,
        "upload_form": UploadForm(),
        "uploads": list(shown.checkpoint.uploads.all()) if hasattr(shown, "checkpoint") else [],
        "estimate": browsing.estimate_of(shown) if shown.status == Run.Status.DRAFT else None,
        "others": browsing.runs_of(shown.project).filter(method=shown.method).exclude(pk=pk)[:20],
    }
    return render(request, "training/run.html", context)


@login_required
@require_GET
def run_progress(request: SignedIn, pk: int) -> HttpResponse:
    """What changes while a run works; with an ETag, so that looking again costs little."""
    shown = find(Run.objects.select_related("project"), request.user, Action.WATCH, pk=pk)
    rows = services.metrics_of(shown, after=_step_after(request.GET.get("after", "")))
    recent = rows if len(rows) > 1 else browsing.latest_metrics(shown)
    body = _progress(shown, recent) | {"metrics": rows, "log": _end_of(shown.log_tail)}
    tag = f'"{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("If-None-Match") == tag:
        return HttpResponse(status=304, headers=headers)
    return JsonResponse(body, headers=headers)


def _progress(shown: Run, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures above the charts. `attempt` and `samples` tell the page when to ask for everything anew."""
    is_running = shown.status == Run.Status.RUNNING
    left = browsing.eta_seconds(rows, total=shown.total_steps) if is_running else None
    return {
        "status": shown.status,
        "step": shown.step,
        "total_steps": shown.total_steps,
        "eta_seconds": left,
        "sentence": running_sentence(shown, eta_seconds=left) if is_running else "",
        "attempt": shown.attempt,
        "samples": len(shown.samples),
        "cancelling": is_running and shown.cancel_requested_at is not None,
    }


def _step_after(value: str) -> int:
    return min(int(value), 2**31 - 1) if value.isdecimal() else -1


def _end_of(log: str) -> str:
    return "\n".join(log.splitlines()[-LOG_LINES:])


@login_required
@require_POST
def run_action(request: SignedIn, pk: int, action: str) -> HttpResponse:
    """Start a draft, cancel what waits or runs, retry what failed or was cancelled."""
    changed = find(Run.objects.select_related("project"), request.user, Action.TRAIN, pk=pk)
    act = {"start": services.start_run, "cancel": services.cancel_run, "retry": services.retry_run}[action]
    try:
        act(run=changed)
    except Conflict as error:
        messages.error(request, str(error))
    return redirect(changed)


@login_required
@require_GET
def run_sample(request: SignedIn, pk: int, name: str) -> FileResponse:
    """A picture that the model drew before or after training."""
    shown = find(Run.objects.select_related("project"), request.user, Action.WATCH, pk=pk)
    image = services.open_sample_image(shown, name)
    response = FileResponse(image, content_type="image/png")
    response["Cache-Control"] = "private, max-age=86400, immutable"
    return response


@login_required
@require_GET
def compare(request: SignedIn, pk: int) -> HttpResponse:
    """Two runs on one chart, where their settings differ, who won, and what they made of the same prompts."""
    project = project_for(request, pk, Action.WATCH)
    choices = list(browsing.runs_of(project).exclude(started_at=None)[:RUNS_SHOWN])
    by_number = {str(run.pk): run for run in choices}
    a, b = (by_number.get(request.GET.get(side, "")) for side in ("a", "b"))
    context: dict[str, Any] = {"project": project, "runs": choices, "a": a, "b": b}
    if a and b:
        series = {"a": services.metrics_of(a), "b": services.metrics_of(b)}
        context["series"] = series
        context["chart_words"] = chart_words()
        context["differences"] = comparing.differences(a, b)
        context["figures"] = comparing.last_values(**series)
        context["matches"] = comparing.matches_between(project, a, b)
        context["samples"] = comparing.samples_of_both(a, b)
    return render(request, "training/compare.html", context)
