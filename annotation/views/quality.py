"""Do people agree, who with whom, and which source is best."""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from annotation import profiles, quality_pages
from annotation.models import Project
from annotation.permissions import Action
from annotation.quality_words import bias_sentences
from annotation.views.access import SignedIn, project_for


@login_required
@require_GET
def quality(request: SignedIn, pk: int) -> HttpResponse:
    """Agreement of the project question by question, and a row for each annotator."""
    project = project_for(request, pk, Action.BROWSE)
    report = quality_pages.read_report(project)
    people = quality_pages.annotator_rows(report)
    context = {
        "project": project,
        "report": report,
        "main": quality_pages.main_question(report["summary"]),
        "questions": quality_pages.question_rows(report["summary"]),
        "people": people,
        "suspects": [row for row in people if row["evidence"]],
        "sentences": bias_sentences(report["summary"] or {}),
        "matrix": quality_pages.pair_matrix(report),
        "points": quality_pages.scatter_points(people),
        "slips": quality_pages.slips(project, report["fits"]),
        "disputed": quality_pages.disputed(project, report["fits"]),
    }
    return render(request, "annotation/quality.html", context)


@login_required
@require_GET
def annotator(request: SignedIn, pk: int, user: int) -> HttpResponse:
    """One annotator: their numbers, the evidence, and where others said something else, side by side."""
    is_own = user == request.user.pk
    project = project_for(request, pk, Action.SEE if is_own else Action.BROWSE)
    browses = Project.objects.visible_to(request.user, Action.BROWSE).filter(pk=pk).exists()
    report = quality_pages.read_report(project)
    row = next((row for row in quality_pages.annotator_rows(report) if row["annotator"] == user), None)
    if row is None and not is_own:
        raise Http404("This person has judged nothing in this project, or it is not counted yet.")
    context = {
        "project": project,
        "report": report,
        "main": quality_pages.main_question(report["summary"]),
        "person": row,
        "is_own": is_own,
        "browses": browses,
    }
    if row is not None:
        context["days"] = profiles.days_of(project, user, today=timezone.localdate())
        context["tendencies"] = profiles.tendencies(row, report["summary"])
    if row is not None and browses:
        # What others said, and whose the candidates are, is for those who may look at the data.
        context["sources"] = profiles.tastes(project, user, report["summary"])
        context["pairs"] = quality_pages.pairs_of(report, user)
        context["disagreements"] = quality_pages.last_disagreements(project, user)
    return render(request, "annotation/quality_annotator.html", context)


@login_required
@require_GET
def agreement(request: SignedIn, pk: int) -> HttpResponse:
    """The first of the five answers, fetched by the project's page after it is there."""
    project = project_for(request, pk, Action.BROWSE)
    report = quality_pages.read_report(project)
    context = {"project": project, "report": report, "main": quality_pages.main_question(report["summary"])}
    return render(request, "annotation/_agreement.html", context)


@login_required
@require_GET
def leaderboard(request: SignedIn, pk: int) -> HttpResponse:
    """Sources by strength, with intervals, and who beats whom."""
    project = project_for(request, pk, Action.BROWSE)
    return render(request, "annotation/leaderboard.html", _leaderboard(request, project))


def _leaderboard(request: SignedIn, project: Project) -> dict[str, Any]:
    report = quality_pages.read_report(project)
    by_length = request.GET.get("by_length") == "1"
    board = quality_pages.board_of(report, by_length=by_length)
    return {"project": project, "report": report, "by_length": by_length} | quality_pages.drawn(board)
