"""Inviting people into a project, and what an invited person sees."""

from allauth.socialaccount.adapter import get_adapter as get_social_adapter
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from annotation import services
from annotation.adapters import INVITATION_KEY
from annotation.errors import Conflict, Invalid, NotAllowed, NotFound
from annotation.forms import InvitationForm, JoinForm
from annotation.models import User
from annotation.permissions import Action
from annotation.views.access import SignedIn, project_for
from annotation.views.accounts import finish_sign_in
from annotation.views.projects import members_page


@login_required
@never_cache  # the answer holds the link
@require_POST
def invite(request: SignedIn, pk: int) -> HttpResponse:
    """The link is shown once, in the reply to the form."""
    project = project_for(request, pk, Action.PEOPLE)
    form = InvitationForm(request.POST)
    link = None
    if form.is_valid():
        try:
            _made, secret = services.invite(
                project=project, by=request.user, now=timezone.now(), **form.cleaned_data
            )
        except (Invalid, NotAllowed) as error:
            form.refuse(error) if isinstance(error, Invalid) else form.add_error(None, str(error))
        else:
            link = services.invitation_link(secret=secret, base_url=request.build_absolute_uri("/"))
            form = InvitationForm()
    return members_page(request, project, invitation_form=form, invitation_link=link)


@login_required
@require_POST
def revoke(request: SignedIn, pk: int, invitation: int) -> HttpResponse:
    project = project_for(request, pk, Action.PEOPLE)
    try:
        services.revoke_invitation(invitation=get_object_or_404(project.invitations, pk=invitation))
    except Conflict as error:
        messages.error(request, str(error))
    else:
        messages.info(request, _("The invitation no longer works."))
    return redirect("annotation:members", pk)


@sensitive_post_parameters("password")
@never_cache
@require_http_methods(["GET", "POST"])
def invitation(request: HttpRequest, secret: str) -> HttpResponse:
    """Join with the account at hand, or make one."""
    now = timezone.now()
    try:
        found = services.find_invitation(secret=secret, now=now)
    except NotFound as error:
        return render(request, "annotation/invitation_spent.html", {"reason": error}, status=404)
    signed_in = isinstance(request.user, User)
    request.session[INVITATION_KEY] = secret
    form = JoinForm(request.POST if request.method == "POST" and not signed_in else None)
    if request.method == "POST":
        try:
            if isinstance(request.user, User):
                services.accept_invitation(secret=secret, user=request.user, now=now)
                return redirect(found.project)
            if form.is_valid():
                user = services.join(secret=secret, now=now, **form.cleaned_data)
                return finish_sign_in(request, user, target=found.project.get_absolute_url())
        except Invalid as error:
            form.refuse(error)
        except Conflict as error:
            messages.error(request, str(error))
            return redirect(found.project)
    context = {"invitation": found, "form": form, "here": request.path}
    context["providers"] = get_social_adapter().list_providers(request)
    return render(request, "annotation/invitation.html", context)
