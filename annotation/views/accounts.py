"""Signing in by password or by one-time link, and signing out."""

import sesame.utils
from allauth.account.internal.flows.login import perform_login, record_authentication
from allauth.account.models import Login
from allauth.socialaccount.adapter import get_adapter as get_social_adapter
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation import services
from annotation.errors import TooMany
from annotation.forms import SignInForm
from annotation.models import User

MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"
LINK_BACKEND = "sesame.backends.ModelBackend"


@sensitive_post_parameters("password")
@never_cache
@require_http_methods(["GET", "POST"])
def sign_in(request: HttpRequest) -> HttpResponse:
    target = _target(request)
    if request.user.is_authenticated:
        return redirect(target)
    form = SignInForm(request.POST or None)
    status = 200
    if form.is_valid():
        try:
            address = _address(request)
            user = services.sign_in(**form.cleaned_data, address=address, now=timezone.now())
        except TooMany as error:
            form.add_error(None, str(error))
            status = 429
        else:
            if user is not None:
                return finish_sign_in(request, user, target=target)
            form.add_error(None, _("This name and password do not belong together. Both are case-sensitive."))
    context = {"form": form, "next": request.POST.get("next", request.GET.get("next", ""))}
    context["providers"] = get_social_adapter().list_providers(request)
    return render(request, "annotation/sign_in.html", context, status=status)


def _address(request: HttpRequest) -> str:
    """Where the request comes from. Only our own proxy is believed, and only its last word."""
    if settings.BEHIND_HTTPS and (forwarded := request.headers.get("X-Forwarded-For")):
        return forwarded.rsplit(",", 1)[-1].strip()
    return str(request.META.get("REMOTE_ADDR", ""))


def finish_sign_in(
    request: HttpRequest, user: User, *, target: str, backend: str = MODEL_BACKEND
) -> HttpResponse:
    """What comes after a password, a link or an invitation: the second factor, if this person set one up."""
    user.backend = backend
    record_authentication(request, user, method=backend)
    return perform_login(request, Login(user=user, redirect_url=target, email_verification="none"))


def _target(request: HttpRequest) -> str:
    """Where to go after signing in: `next` if it is an address of this site."""
    wanted = request.POST.get("next", request.GET.get("next", ""))
    if url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure()):
        return wanted
    return reverse(settings.LOGIN_REDIRECT_URL)


@never_cache
@require_GET
def link(request: HttpRequest) -> HttpResponse:
    """A one-time link: one click signs in, and the link is spent."""
    user = sesame.utils.get_user(request)
    if user is None:
        return render(request, "annotation/link_spent.html", status=403)
    return finish_sign_in(request, user, target=reverse(settings.LOGIN_REDIRECT_URL), backend=LINK_BACKEND)


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    messages.info(request, _("You are signed out."))
    return redirect(settings.LOGOUT_REDIRECT_URL)
