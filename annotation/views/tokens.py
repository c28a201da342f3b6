"""One's own API tokens. Only with a session: no token makes another."""

from datetime import timedelta

from allauth.socialaccount.adapter import get_adapter as get_social_adapter
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from annotation import services
from annotation.forms import TokenForm
from annotation.views.access import SignedIn


@login_required
@never_cache  # the answer may hold a token
@require_http_methods(["GET", "POST"])
def tokens(request: SignedIn) -> HttpResponse:
    """The list, and a form that makes one; it is shown once, in the reply."""
    form = TokenForm(request.POST or None, user=request.user)
    made = None
    if form.is_valid():
        data = form.cleaned_data
        days = data["days"]
        made = services.issue_token(
            user=request.user,
            name=data["name"],
            scopes=data["scopes"],
            project=data["project"],
            expires_at=timezone.now() + timedelta(days=days) if days else None,
        )
        form = TokenForm(user=request.user)
    own = request.user.api_tokens.select_related("project").order_by("-created_at", "-pk")
    context = {"form": form, "made": made, "tokens": own}
    context["providers"] = get_social_adapter().list_providers(request)
    return render(request, "annotation/tokens.html", context)


@login_required
@require_POST
def revoke(request: SignedIn, pk: int) -> HttpResponse:
    services.revoke_token(token=get_object_or_404(request.user.api_tokens, pk=pk))
    messages.info(request, _("The token no longer works."))
    return redirect("annotation:tokens")
