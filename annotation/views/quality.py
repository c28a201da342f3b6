"""Do people agree, and who with whom."""

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from annotation.views.access import SignedIn, managed_project


@login_required
@require_GET
def quality(request: SignedIn, pk: int) -> HttpResponse:
    project = managed_project(request, pk)
    return render(request, "annotation/quality.html", {"project": project})


@login_required
@require_GET
def agreement(request: SignedIn, pk: int) -> HttpResponse:
    """The first of the five answers, fetched by the project's page after it is there."""
    project = managed_project(request, pk)
    return render(request, "annotation/_agreement.html", {"project": project})
