"""Who may see which project: outsiders get 404, members without the role 403."""

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.shortcuts import get_object_or_404

from annotation.models import Project, User


class SignedIn(HttpRequest):
    """A request behind `login_required`."""

    user: User


def visible_project(request: SignedIn, pk: int) -> Project:
    """A project that this person belongs to, or 404."""
    return get_object_or_404(Project.objects.visible_to(request.user), pk=pk)


def managed_project(request: SignedIn, pk: int) -> Project:
    """A project that this person manages; 404 for outsiders, 403 for its annotators."""
    project = Project.objects.managed_by(request.user).filter(pk=pk).first()
    if project is None:
        visible_project(request, pk)
        raise PermissionDenied("This page is for the project's managers.")
    return project
