"""The editor of task templates: part of the project's form, and live beside it the page that it makes."""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from annotation.models import Project
from annotation.samples import sample_item
from annotation.template import DEFAULT_QUESTIONS
from annotation.template_form import change_template, editor_context, read_template
from annotation.views.access import SignedIn

MOST_PREVIEWED = 4


@login_required
@require_POST
def template_editor(request: SignedIn) -> HttpResponse:
    """The editor after one of its buttons."""
    return render(request, "annotation/_template_editor.html", edited_template(request))


@login_required
@require_POST
def template_preview(request: SignedIn) -> HttpResponse:
    """The page that the template would make, and what is wrong with each field."""
    context = edited_template(request) | {"swap": True}
    return render(request, "annotation/_template_preview.html", context)


def edited_template(request: HttpRequest, project: Project | None = None) -> dict[str, Any]:
    """The editor for what was typed; before anything was, for the project's template."""
    posted = request.method == "POST"
    questions = (
        read_template(request.POST) if posted else (project.questions if project else DEFAULT_QUESTIONS)
    )
    if operation := request.POST.get("op"):
        questions = change_template(questions, operation, request.POST.get("kind", ""))
    modality = project.modality if project else request.POST.get("modality", "text")
    count = request.POST.get("preview_count", "2")
    shown = int(count) if count in {str(n) for n in range(1, MOST_PREVIEWED + 1)} else 2
    context = editor_context(questions, modality=modality, count=shown)
    if context["parsed"]:
        context["sample"] = sample_item(context["parsed"], modality=modality, count=shown)
    return context | {"questions": questions}
