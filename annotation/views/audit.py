"""What was changed in a project, by whom and when. For its owners."""

from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from annotation.browsing import audit_of
from annotation.forms import AuditFilterForm
from annotation.permissions import Action
from annotation.views.access import SignedIn, project_for

PAGE_SIZE = 100


@login_required
@require_GET
def audit(request: SignedIn, pk: int) -> HttpResponse:
    """Newest first, filtered."""
    project = project_for(request, pk, Action.OWN)
    form = AuditFilterForm(request.GET or None)
    chosen: dict[str, Any] = form.cleaned_data if form.is_valid() else {}
    page = Paginator(audit_of(project, **chosen), PAGE_SIZE).get_page(request.GET.get("page"))
    query = request.GET.copy()
    query.pop("page", None)
    context = {"project": project, "form": form, "page": page, "query": query.urlencode()}
    return render(request, "annotation/audit.html", context)
