"""The project of a page, if this person may do there what the page does."""

from django.http import HttpRequest

from annotation.models import Project, User
from annotation.permissions import Action, find


class SignedIn(HttpRequest):
    """A request behind `login_required`."""

    user: User


def project_for(request: SignedIn, pk: int, action: Action, *, to_post: Action | None = None) -> Project:
    """404 for outsiders, 403 for members whose role does not allow this, or not `to_post` to the page."""
    if request.method == "POST" and to_post is not None:
        action = to_post
    return find(Project.objects.all(), request.user, action, pk=pk)
