"""Webhooks: addresses that are told what happens, and the log of what they were told."""

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods, require_POST

from annotation import services
from annotation.data_browsing import page_of
from annotation.errors import Invalid
from annotation.forms import PageForm
from annotation.models import Webhook
from annotation.permissions import Action
from annotation.views.access import SignedIn, project_for
from annotation.views.data import position_of

CHOICES = [choice for choice in Webhook.Event.choices if choice[0] != Webhook.Event.TEST]


class WebhookForm(PageForm):
    url = forms.CharField(label=gettext_lazy("Address"), max_length=500)
    events = forms.MultipleChoiceField(
        label=gettext_lazy("Tell it when"), choices=CHOICES, widget=forms.CheckboxSelectMultiple
    )


@login_required
@require_http_methods(["GET", "POST"])
def webhooks(request: SignedIn, pk: int) -> HttpResponse:
    project = project_for(request, pk, Action.EDIT)
    form = WebhookForm(request.POST or None)
    if form.is_valid():
        try:
            services.add_webhook(project=project, by=request.user, **form.cleaned_data)
        except Invalid as error:
            form.refuse(error)
        else:
            return redirect("annotation:webhooks", pk)
    context = {"project": project, "form": form, "webhooks": project.webhooks.order_by("pk")}
    return render(request, "annotation/webhooks.html", context, status=400 if form.is_bound else 200)


@login_required
@require_http_methods(["GET"])
def webhook(request: SignedIn, pk: int, webhook: int) -> HttpResponse:
    """One address with its secret, and what it was told."""
    project = project_for(request, pk, Action.EDIT)
    shown = get_object_or_404(project.webhooks, pk=webhook)
    page = page_of(shown.deliveries.all(), "pk", descending=True, **position_of(request))
    return render(request, "annotation/webhook.html", {"project": project, "webhook": shown, "page": page})


@login_required
@require_POST
def webhook_action(request: SignedIn, pk: int, webhook: int, action: str) -> HttpResponse:
    """Turn it on or off, give it a new secret, send it a trial message, or delete it."""
    project = project_for(request, pk, Action.EDIT)
    shown: Any = get_object_or_404(project.webhooks, pk=webhook)
    if action == "delete":
        shown.delete()
        messages.success(request, _("The webhook was deleted."))
        return redirect("annotation:webhooks", pk)
    if action == "rotate":
        services.rotate_secret(webhook=shown, now=timezone.now())
    elif action == "test":
        services.send_to([shown], event=Webhook.Event.TEST, data={})
    else:
        services.update_webhook(webhook=shown, is_active=action == "enable")
    return redirect("annotation:webhook", pk, webhook)
