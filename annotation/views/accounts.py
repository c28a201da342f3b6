"""Signing in by password or by one-time link, and signing out."""

import sesame.utils
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login, logout
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
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
            address = request.META.get("REMOTE_ADDR", "")
            user = services.sign_in(**form.cleaned_data, address=address, now=timezone.now())
        except TooMany as error:
            form.add_error(None, str(error))
            status = 429
        else:
            if user is not None:
                return finish_sign_in(request, user, target=target)
            form.add_error(None, "This name and password do not belong together. Both are case-sensitive.")
    context = {"form": form, "next": request.POST.get("next", request.GET.get("next", ""))}
    return render(request, "annotation/sign_in.html", context, status=status)


def finish_sign_in(request: HttpRequest, user: User, *, target: str) -> HttpResponse:
    """What comes after it is clear who this is."""
    login(request, user, backend=MODEL_BACKEND)
    return redirect(target)


def _target(request: HttpRequest) -> str:
    """Where to go after signing in: `next` if it is an address of this site."""
    wanted = request.POST.get("next", request.GET.get("next", ""))
    if url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure()):
        return wanted
    return settings.LOGIN_REDIRECT_URL


@never_cache
@require_GET
def link(request: HttpRequest) -> HttpResponse:
    """A one-time link: one click signs in, and the link is spent."""
    user = sesame.utils.get_user(request)
    if user is None:
        return render(request, "annotation/link_spent.html", status=403)
    login(request, user, backend=LINK_BACKEND)
    return redirect(settings.LOGIN_REDIRECT_URL)


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    messages.info(request, "You are signed out.")
    return redirect(settings.LOGOUT_REDIRECT_URL)
